/* SPDX-License-Identifier: Apache-2.0
 *
  * Parameters of RPC methods: a table declares the parameters of a method, and bay_params() turns the
  * JSON of a call into a struct. It allocates nothing and reads the text once. It refuses what the
  * table does not allow, and names the parameter.
 *
 *     struct create { char name[64]; uint64_t num_blocks; };
 *     static const struct bay_param create_params[] = {
 *         BAY_TEXT_PARAM(struct create, name, true, "Name of the new bdev."),
 *         BAY_U64_PARAM(struct create, num_blocks, true, 1, UINT32_MAX, "Capacity, in blocks."),
 *     };
 *
  * Supports texts, numbers from 0 to 2^64 - 1 and booleans; at most 64 parameters. If an optional
  * parameter is absent or null, its struct member keeps its value.
 */
#ifndef BAY_PARAMS_H
#define BAY_PARAMS_H

#include "bay_text.h"

/** Maximum length of a parameter's name with its NUL, in bytes. */
#define BAY_PARAM_NAME_MAX 64

enum bay_param_kind { BAY_PARAM_TEXT, BAY_PARAM_U32, BAY_PARAM_U64, BAY_PARAM_BOOL };

/** One parameter, and the struct member that stores it. */
struct bay_param {
    const char *name, *doc;
    enum bay_param_kind kind;
    bool required;
    size_t offset, size;
    uint64_t min, max; /* limits of a number's value, or of a text's length in bytes */
};

#define BAY_PARAM_(STRUCT, MEMBER, KIND, REQUIRED, MIN, MAX, DOC)                             \
    {#MEMBER, DOC, KIND, REQUIRED, offsetof(STRUCT, MEMBER), sizeof(((STRUCT *)0)->MEMBER), MIN, MAX}
/** A text of at least one byte, stored in an array of char with a terminating NUL. */
#define BAY_TEXT_PARAM(STRUCT, MEMBER, REQUIRED, DOC)                                         \
    BAY_PARAM_(STRUCT, MEMBER, BAY_PARAM_TEXT, REQUIRED, 1, sizeof(((STRUCT *)0)->MEMBER) - 1, DOC)
/** A number, stored in a uint32_t. */
#define BAY_U32_PARAM(STRUCT, MEMBER, REQUIRED, MIN, MAX, DOC)                                \
    BAY_PARAM_(STRUCT, MEMBER, BAY_PARAM_U32, REQUIRED, MIN, MAX, DOC)
/** A number, stored in a uint64_t. */
#define BAY_U64_PARAM(STRUCT, MEMBER, REQUIRED, MIN, MAX, DOC)                                \
    BAY_PARAM_(STRUCT, MEMBER, BAY_PARAM_U64, REQUIRED, MIN, MAX, DOC)
/** true or false, stored in a bool. */
#define BAY_BOOL_PARAM(STRUCT, MEMBER, REQUIRED, DOC)                                         \
    BAY_PARAM_(STRUCT, MEMBER, BAY_PARAM_BOOL, REQUIRED, 0, 1, DOC)

/* The rest of the text, which is still to be read. */
struct bay_scan_ {
    const uint8_t *at, *end;
};

static inline void bay_space_(struct bay_scan_ *scan) {
    while (scan->at < scan->end && *scan->at && strchr(" \t\r\n", *scan->at))
        scan->at++;
}

static inline bool bay_take_(struct bay_scan_ *scan, char wanted) {
    bay_space_(scan);
    if (scan->at == scan->end || *scan->at != (uint8_t)wanted)
        return false;
    scan->at++;
    return true;
}

static inline bool bay_word_(struct bay_scan_ *scan, const char *word) {
    size_t len = strlen(word);
    if ((size_t)(scan->end - scan->at) < len || memcmp(scan->at, word, len) != 0)
        return false;
    scan->at += len;
    return true;
}

/* Reads four hexadecimal digits. Returns 0x10000 when there are none. */
static inline uint32_t bay_hex4_(struct bay_scan_ *scan) {
    uint32_t value = 0;
    if (scan->end - scan->at < 4)
        return 0x10000;
    for (int i = 0; i < 4; i++, scan->at++) {
        uint8_t c = *scan->at;
        if (c >= '0' && c <= '9')
            value = value << 4 | (uint32_t)(c - '0');
        else if ((c | 32) >= 'a' && (c | 32) <= 'f')
            value = value << 4 | (uint32_t)((c | 32) - 'a' + 10);
        else
            return 0x10000;
    }
    return value;
}

/* Reads the rest of an escape after its backslash, as UTF-8. Returns its length, or 0 when it is invalid. */
static inline size_t bay_escape_(struct bay_scan_ *scan, char to[4]) {
    static const char from_to[] = "\"\"\\\\//b\bf\fn\nr\rt\t";
    if (scan->at == scan->end)
        return 0;
    char c = (char)*scan->at++;
    for (size_t i = 0; c != 'u' && i + 1 < sizeof(from_to); i += 2)
        if (from_to[i] == c)
            return to[0] = from_to[i + 1], 1;
    if (c != 'u')
        return 0;
    uint32_t code = bay_hex4_(scan);
    if (code >= 0xd800 && code < 0xdc00 && bay_word_(scan, "\\u")) {
        uint32_t low = bay_hex4_(scan);
        if (low < 0xdc00 || low > 0xdfff)
            return 0;
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    } else if (code == 0 || code >= 0x10000 || (code >= 0xd800 && code < 0xe000)) {
        return 0; /* a NUL ends a text of C */
    }
    if (code < 0x80)
        return to[0] = (char)code, 1;
    size_t len = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = len; i-- > 1; code >>= 6)
        to[i] = (char)(0x80 | (code & 0x3f));
    to[0] = (char)((0xf00u >> len & 0xf0) | code);
    return len;
}

/* Reads the rest of a JSON string after its opening quote, and adds a NUL. False when it is invalid or too long. */
static inline bool bay_string_(struct bay_scan_ *scan, char *to, size_t cap) {
    size_t len = 0;
    while (scan->at < scan->end && *scan->at != '"') {
        char bytes[4];
        size_t more = 1;
        if (*scan->at < 0x20)
            return false;
        bytes[0] = (char)*scan->at++;
        if (bytes[0] == '\\')
            more = bay_escape_(scan, bytes);
        if (more == 0 || more >= cap - len)
            return false;
        memcpy(to + len, bytes, more);
        len += more;
    }
    to[len] = 0;
    return bay_take_(scan, '"');
}

/* Reads a number without sign, fraction and exponent. */
static inline bool bay_number_(struct bay_scan_ *scan, uint64_t *number) {
    const uint8_t *first = scan->at;
    for (*number = 0; scan->at < scan->end && *scan->at >= '0' && *scan->at <= '9'; scan->at++) {
        uint64_t digit = (uint64_t)(*scan->at - '0');
        if (*number > (UINT64_MAX - digit) / 10)
            return false;
        *number = *number * 10 + digit;
    }
    bool ends = scan->at == scan->end || !strchr(".eE", *scan->at) || !*scan->at;
    return ends && scan->at > first && (*first != '0' || scan->at - first == 1);
}

/* Reads one value into its member. */
static inline bool bay_value_(struct bay_scan_ *scan, const struct bay_param *param, void *to) {
    uint64_t number = 0;
    uint32_t small;
    bool truth;
    char *text = (char *)to;
    switch (param->kind) {
    case BAY_PARAM_TEXT:
        return bay_take_(scan, '"') && bay_string_(scan, text, param->size) && strlen(text) >= param->min;
    case BAY_PARAM_BOOL:
        truth = bay_word_(scan, "true");
        memcpy(to, &truth, sizeof(truth));
        return truth || bay_word_(scan, "false");
    case BAY_PARAM_U32:
    case BAY_PARAM_U64:
        if (!bay_number_(scan, &number) || number < param->min || number > param->max)
            return false;
        small = (uint32_t)number;
        memcpy(to, param->kind == BAY_PARAM_U32 ? (const void *)&small : &number, param->size);
        return true;
    }
    return false;
}

static inline void bay_allowed_(const struct bay_param *param, struct bay_text *why) {
    static const char *const kinds[] = {"a text of ", "a number from ", "a number from ", "true or false"};
    bay_text_add(why, "parameter ");
    bay_text_add(why, param->name);
    bay_text_add(why, ": allowed: ");
    bay_text_add(why, kinds[param->kind]);
    if (param->kind == BAY_PARAM_BOOL)
        return;
    bay_text_number(why, param->min);
    bay_text_add(why, " to ");
    bay_text_number(why, param->max);
    if (param->kind == BAY_PARAM_TEXT)
        bay_text_add(why, " bytes");
}

/** Reads the parameters of a call into the struct `to`. Returns false when they are refused: `why` then
 *  says what is wrong and what is allowed, for an error with code BAY_INVALID_PARAMS. */
static inline bool bay_params(struct bay_str json, const struct bay_param *params, size_t count,
                              void *to, struct bay_text *why) {
    struct bay_scan_ scan = {json.ptr, json.ptr + json.len};
    uint64_t seen = 0;
    bool is_object = bay_take_(&scan, '{'), more = is_object && !bay_take_(&scan, '}');
    while (more) {
        char name[BAY_PARAM_NAME_MAX] = "";
        size_t at = 0;
        is_object = bay_take_(&scan, '"') && bay_string_(&scan, name, sizeof(name)) && bay_take_(&scan, ':');
        while (is_object && at < count && strcmp(params[at].name, name) != 0)
            at++;
        if (!is_object)
            break;
        if (at == count || at >= 64 || (seen >> at & 1)) {
            bay_text_add(why, at < count ? "given twice: parameter " : "unknown parameter ");
            bay_text_add(why, name);
            return false;
        }
        bay_space_(&scan);
        if (!bay_word_(&scan, "null")) {
            if (!bay_value_(&scan, &params[at], (char *)to + params[at].offset)) {
                bay_allowed_(&params[at], why);
                return false;
            }
            seen |= UINT64_C(1) << at;
        }
        more = bay_take_(&scan, ',');
        is_object = more || bay_take_(&scan, '}');
    }
    if (!is_object) {
        bay_text_add(why, "params must be an object of named parameters");
        return false;
    }
    for (size_t at = 0; at < count; at++) {
        if (params[at].required && !(seen >> at & 1)) {
            bay_allowed_(&params[at], why);
            bay_text_add(why, "; it is required");
            return false;
        }
    }
    return true;
}

#endif
