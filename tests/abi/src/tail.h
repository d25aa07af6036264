
/* The door */

/** The symbol that the host looks up in a plugin. BAY_PLUGIN defines it. */
extern __attribute__((visibility("default"))) const struct bay_plugin bay_plugin_v1;

/** Makes a bay_str that points to a string literal. It copies nothing. */
#define BAY_STR(literal) bay_str_of(literal, sizeof(literal) - 1)

static inline struct bay_str bay_str_of(const char *text, size_t len) {
    struct bay_str str = {(const uint8_t *)text, len};
    return str;
}

#define BAY_PAD4_(bytes) (((bytes) + 3u) & ~(size_t)3)
#define BAY_NOTE_(variable, type, text)                                                       \
    static const struct {                                                                     \
        uint32_t namesz, descsz, kind;                                                        \
        char name[4];                                                                         \
        char desc[BAY_PAD4_(sizeof(text))];                                                   \
    } variable __attribute__((section(".note.bay"), used, aligned(4))) = {                    \
        4, (uint32_t)BAY_PAD4_(sizeof(text)), type, "BAY", text}

/** More fields of the manifest. Define them before you include this header. BAY_PERMISSIONS is a
 *  JSON list without its brackets.
 */
#ifndef BAY_VENDOR
#define BAY_VENDOR ""
#endif
#ifndef BAY_LICENSE
#define BAY_LICENSE ""
#endif
#ifndef BAY_PERMISSIONS
#define BAY_PERMISSIONS ""
#endif

/** Defines the door (the plugin's entry points) and both notes. Use it once in a plugin, at file
 *  scope, with a semicolon after it. NAME, VERSION (semantic) and KIND are string literals. PROVIDES
 *  and REQUIRES are JSON lists without their brackets, such as "\"rpc:acme_ping\"", or "". FLAGS are
 *  BAY_PF_*. START, FINI and GET_IFACE may be NULL.
 */
#define BAY_PLUGIN(NAME, VERSION, KIND, PROVIDES, REQUIRES, FLAGS, INIT, START, FINI, GET_IFACE) \
    BAY_NOTE_(bay_note_manifest_, BAY_NOTE_MANIFEST,                                          \
              "{\"name\":\"" NAME "\",\"version\":\"" VERSION "\",\"kind\":\"" KIND           \
              "\",\"vendor\":\"" BAY_VENDOR "\",\"license\":\"" BAY_LICENSE                     \
              "\",\"abi\":[1,0],\"needs_minor\":0,\"lang\":\"c\",\"provides\":[" PROVIDES     \
              "],\"requires\":[" REQUIRES "],\"modules\":[],\"permissions\":["                 \
              BAY_PERMISSIONS "]}");                                                          \
    BAY_NOTE_(bay_note_layout_, BAY_NOTE_LAYOUT, BAY_LAYOUT_TEXT);                            \
    const struct bay_plugin bay_plugin_v1 = {                                                 \
        BAY_MAGIC, sizeof(struct bay_plugin), BAY_ABI_MAJOR, BAY_ABI_MINOR, 0, 0, FLAGS,      \
        NAME, VERSION, INIT, START, FINI, GET_IFACE}

#ifdef __cplusplus
}
#endif

#endif
