/* SPDX-License-Identifier: Apache-2.0
 *
  * JSON text in a buffer of the caller, for answers, configuration and descriptions of methods.
 *
 *     BAY_TEXT(answer, 512);
 *     bay_text_quoted(&answer, disk->name);
 *     rpc->reply(host, call, bay_text_str(&answer));
 *
  * A piece that does not fit is not added, and `cut` is then set, because an incomplete JSON text is useless.
 */
#ifndef BAY_TEXT_H
#define BAY_TEXT_H

#include "bay_abi.h"
#include <stdbool.h>
#include <string.h>

/** A text that can grow to the size of its buffer. */
struct bay_text {
    char *bytes;
    size_t len, cap;
    bool cut;
};

/** Declares an empty text of at most CAP bytes. */
#define BAY_TEXT(NAME, CAP)                                                                   \
    char NAME##_bytes[CAP];                                                                   \
    struct bay_text NAME = {NAME##_bytes, 0, CAP, false}

/** Appends bytes unchanged. */
static inline void bay_text_bytes(struct bay_text *text, const char *bytes, size_t len) {
    if (text->cut || len > text->cap - text->len) {
        text->cut = true;
        return;
    }
    memcpy(text->bytes + text->len, bytes, len);
    text->len += len;
}

/** Appends a NUL-terminated text unchanged. */
static inline void bay_text_add(struct bay_text *text, const char *words) {
    bay_text_bytes(text, words, strlen(words));
}

/** Appends a decimal number. */
static inline void bay_text_number(struct bay_text *text, uint64_t number) {
    char digits[20];
    size_t at = sizeof(digits);
    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    bay_text_bytes(text, digits + at, sizeof(digits) - at);
}

/** Appends a NUL-terminated UTF-8 text as a JSON string. */
static inline void bay_text_quoted(struct bay_text *text, const char *words) {
    static const char hex[] = "0123456789abcdef";
    bay_text_bytes(text, "\"", 1);
    for (; *words; words++) {
        unsigned char byte = (unsigned char)*words;
        char escape[6] = {'\\', 'u', '0', '0', hex[byte >> 4], hex[byte & 15]};
        if (byte < 0x20)
            bay_text_bytes(text, escape, 6);
        else if (byte == '"' || byte == '\\')
            bay_text_bytes(text, (const char[]){'\\', (char)byte}, 2);
        else
            bay_text_bytes(text, words, 1);
    }
    bay_text_bytes(text, "\"", 1);
}

/** The text, for a call of the host. Valid as long as the buffer. */
static inline struct bay_str bay_text_str(const struct bay_text *text) {
    return bay_str_of(text->bytes, text->cut ? 0 : text->len);
}

/** Writes the text to a sink. */
static inline void bay_text_write(const struct bay_text *text, const struct bay_sink *sink) {
    sink->write(sink->ctx, bay_text_str(text));
}

#endif
