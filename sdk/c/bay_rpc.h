/* SPDX-License-Identifier: Apache-2.0
 *
  * RPC methods: describe, register and answer them.
 */
#ifndef BAY_RPC_H
#define BAY_RPC_H

#include "bay_params.h"
#include <errno.h>

/** Code of an error about the parameters of a call. */
#define BAY_INVALID_PARAMS (-32602)

/** One entry of BAY_PLUGIN's PROVIDES, for a method. A call of the method then loads the plugin. */
#define BAY_PROVIDES_RPC(METHOD) "\"rpc:" METHOD "\""

/** The host's table of an interface. NULL when the host does not have it, or when its table is older and
 *  lacks functions. `BAY_IFACE(host, bay_bdev_api, BAY_ID_BDEV)` */
#define BAY_IFACE(HOST, TABLE, ID)                                                            \
    ((const struct TABLE *)bay_iface_(HOST, BAY_STR(ID), sizeof(struct TABLE)))

static inline const void *bay_iface_(const struct bay_host *host, struct bay_str id, uint32_t size) {
    const uint32_t *table = (const uint32_t *)host->get_iface(host, id, 0);
    return table && *table >= size ? table : NULL;
}

/** Writes the description of a method as JSON. */
static inline void bay_describe(struct bay_text *text, const char *name, const char *doc,
                                const struct bay_param *params, size_t count) {
    static const char *const kinds[] = {"string", "integer", "integer", "boolean"};
    bay_text_add(text, "{\"name\":");
    bay_text_quoted(text, name);
    bay_text_add(text, ",\"role\":\"operate\",\"doc\":");
    bay_text_quoted(text, doc);
    bay_text_add(text, ",\"params\":[");
    for (size_t at = 0; at < count; at++) {
        const struct bay_param *param = &params[at];
        bool is_text = param->kind == BAY_PARAM_TEXT;
        bay_text_add(text, at ? ",{\"name\":" : "{\"name\":");
        bay_text_quoted(text, param->name);
        bay_text_add(text, ",\"doc\":");
        bay_text_quoted(text, param->doc);
        bay_text_add(text, param->required ? ",\"required\":true" : "");
        bay_text_add(text, ",\"schema\":{\"type\":");
        bay_text_quoted(text, kinds[param->kind]);
        if (param->kind != BAY_PARAM_BOOL) {
            bay_text_add(text, is_text ? ",\"min_len\":" : ",\"minimum\":");
            bay_text_number(text, param->min);
            bay_text_add(text, is_text ? ",\"max_len\":" : ",\"maximum\":");
            bay_text_number(text, param->max);
        }
        bay_text_add(text, "}}");
    }
    bay_text_add(text, "]}");
}

/** Registers a method that may be called at run time. Returns 0 or a negative errno. `[app thread]` */
static inline int32_t bay_method(const struct bay_host *host, const struct bay_rpc_api *rpc,
                                 const char *name, const char *doc, const struct bay_param *params,
                                 size_t count, bay_rpc_call_fn *call, void *ctx) {
    BAY_TEXT(schema, 8192);
    bay_describe(&schema, name, doc, params, count);
    struct bay_rpc_method method = {sizeof(method), BAY_RPC_RUNTIME, bay_str_of(name, strlen(name)),
                                    bay_text_str(&schema), call, ctx};
    return schema.cut ? -E2BIG : rpc->register_(host, &method, NULL);
}

/** Answers a call with a result. `[any thread]` */
static inline void bay_answer(const struct bay_host *host, const struct bay_rpc_api *rpc, uint64_t call,
                              const struct bay_text *result) {
    rpc->reply(host, call, bay_text_str(result));
}

/** Answers a call with an error: BAY_INVALID_PARAMS or a negative errno, and a text that says what is wrong.
 *  `[any thread]` */
static inline void bay_refuse(const struct bay_host *host, const struct bay_rpc_api *rpc, uint64_t call,
                              int32_t code, const char *message) {
    rpc->error(host, call, code, bay_str_of(message, strlen(message)), BAY_STR(""));
}

/** Reads the parameters of a call. Returns false after answering with an error. */
static inline bool bay_params_or_refuse(const struct bay_host *host, const struct bay_rpc_api *rpc,
                                        uint64_t call, struct bay_str json,
                                        const struct bay_param *params, size_t count, void *to) {
    BAY_TEXT(why, 512);
    if (bay_params(json, params, count, to, &why))
        return true;
    rpc->error(host, call, BAY_INVALID_PARAMS, bay_str_of(why.bytes, why.len), BAY_STR(""));
    return false;
}

#endif
