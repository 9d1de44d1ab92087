/* A PKCS#11 module with the message interface of version 3.0, made of SoftHSM's classic calls, for tests/hsm/messages.rs.
 *
 * MESSAGES says how it behaves: "good"; "one" (one operation a session, as NSS has it); "wrong" (a bit of each ciphertext is wrong);
 * "tires" (works 40 times, then says CKR_OPERATION_NOT_INITIALIZED); "foreign" (the interface is not this module's). */
#include <dlfcn.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long UL;
typedef unsigned char B;
typedef struct { UL mechanism; void *parameter; UL length; } Mechanism;
typedef struct { B *iv; UL iv_len, iv_bits; B *aad; UL aad_len, tag_bits; } Gcm;
typedef struct { B *iv; UL iv_len, fixed_bits, generator; B *tag; UL tag_bits; } Message;
/* CK_FUNCTION_LIST_3_0: 68 functions of 2.40, 24 more. */
typedef struct { B major, minor; void *f[92]; } List;
typedef struct { B *name; void *list; UL flags; } Interface;

enum { ENCRYPT_INIT = 29, ENCRYPT = 30, DECRYPT_INIT = 33, DECRYPT = 34, MESSAGE_ENCRYPT_INIT = 72, ENCRYPT_MESSAGE = 73,
       MESSAGE_ENCRYPT_FINAL = 76, MESSAGE_DECRYPT_INIT = 77, DECRYPT_MESSAGE = 78, MESSAGE_DECRYPT_FINAL = 81 };
enum { OK = 0, GENERAL_ERROR = 5, ENCRYPTED_DATA_INVALID = 0x40, OPERATION_ACTIVE = 0x90, OPERATION_NOT_INITIALIZED = 0x91, AES_GCM = 0x1087 };

typedef UL (*Init)(UL, Mechanism *, UL);
typedef UL (*Crypt)(UL, B *, UL, B *, UL *);

static List real, list, list3;
static Interface interface = { (B *)"PKCS 11", &list3, 0 };
static UL keys[2][4096];
/* Classic calls; calls of the message interface. */
UL calls[2], messages;

static int mode(const char *name) { const char *set = getenv("MESSAGES"); return set && strcmp(set, name) == 0; }
static UL told(UL code) { return code == GENERAL_ERROR ? ENCRYPTED_DATA_INVALID : code; }

static UL encrypt_init(UL s, Mechanism *m, UL k) { calls[0]++; return ((Init)real.f[ENCRYPT_INIT])(s, m, k); }
static UL encrypt(UL s, B *in, UL n, B *out, UL *m) { calls[0]++; return ((Crypt)real.f[ENCRYPT])(s, in, n, out, m); }
static UL decrypt_init(UL s, Mechanism *m, UL k) { calls[0]++; return ((Init)real.f[DECRYPT_INIT])(s, m, k); }
static UL decrypt(UL s, B *in, UL n, B *out, UL *m) { calls[0]++; return told(((Crypt)real.f[DECRYPT])(s, in, n, out, m)); }
static UL foreign(UL s, Mechanism *m, UL k) { (void)s; (void)m; (void)k; return OPERATION_ACTIVE; }

static UL begin(int way, UL s, UL key) {
    calls[1]++;
    if (keys[way][s] || (mode("one") && keys[!way][s])) return OPERATION_ACTIVE;
    keys[way][s] = key;
    return OK;
}
static UL end(int way, UL s) { calls[1]++; keys[way][s] = 0; return OK; }
static UL message_encrypt_init(UL s, Mechanism *m, UL k) { (void)m; return begin(0, s, k); }
static UL message_decrypt_init(UL s, Mechanism *m, UL k) { (void)m; return begin(1, s, k); }
static UL message_encrypt_final(UL s) { return end(0, s); }
static UL message_decrypt_final(UL s) { return end(1, s); }

static UL message(int way, UL s, Message *p, B *aad, UL aad_len, B *in, UL n, B *out, UL *room) {
    B *buffer = malloc(n + 64);
    UL length = n + 64, code;
    Gcm gcm = { p->iv, p->iv_len, p->iv_len * 8, aad_len ? aad : NULL, aad_len, p->tag_bits };
    Mechanism m = { AES_GCM, &gcm, sizeof gcm };
    calls[1]++;
    messages++;
    if (!keys[way][s] || (mode("tires") && messages > 40)) { free(buffer); return OPERATION_NOT_INITIALIZED; }
    code = ((Init)real.f[way ? DECRYPT_INIT : ENCRYPT_INIT])(s, &m, keys[way][s]);
    if (code == OK && way == 0) {
        code = ((Crypt)real.f[ENCRYPT])(s, in, n, buffer, &length);
        if (code == OK) { memcpy(out, buffer, n); memcpy(p->tag, buffer + n, 16); *room = n; if (mode("wrong")) out[0] ^= 1; }
    } else if (code == OK) {
        B *all = malloc(n + 16);
        memcpy(all, in, n); memcpy(all + n, p->tag, 16);
        code = told(((Crypt)real.f[DECRYPT])(s, all, n + 16, out, room));
        free(all);
    }
    free(buffer);
    if (code != OK) keys[way][s] = 0;
    return code;
}
static UL encrypt_message(UL s, Message *p, UL pn, B *aad, UL an, B *in, UL n, B *out, UL *room) { (void)pn; return message(0, s, p, aad, an, in, n, out, room); }
static UL decrypt_message(UL s, Message *p, UL pn, B *aad, UL an, B *in, UL n, B *out, UL *room) { (void)pn; return message(1, s, p, aad, an, in, n, out, room); }

static void load(void) {
    List *found = NULL;
    void *library = dlopen(SOFTHSM, RTLD_NOW | RTLD_LOCAL);
    if (real.f[0] || !library) return;
    ((UL (*)(List **))dlsym(library, "C_GetFunctionList"))(&found);
    memcpy(&real, found, offsetof(List, f) + 68 * sizeof(void *));
    list = real;
    list.f[ENCRYPT_INIT] = encrypt_init;
    list.f[ENCRYPT] = encrypt;
    list.f[DECRYPT_INIT] = decrypt_init;
    list.f[DECRYPT] = decrypt;
    list3 = list;
    list3.major = 3;
    list3.minor = 0;
    list3.f[MESSAGE_ENCRYPT_INIT] = message_encrypt_init;
    list3.f[ENCRYPT_MESSAGE] = encrypt_message;
    list3.f[MESSAGE_ENCRYPT_FINAL] = message_encrypt_final;
    list3.f[MESSAGE_DECRYPT_INIT] = message_decrypt_init;
    list3.f[DECRYPT_MESSAGE] = decrypt_message;
    list3.f[MESSAGE_DECRYPT_FINAL] = message_decrypt_final;
    if (mode("foreign")) list3.f[ENCRYPT_INIT] = foreign;
}

UL C_GetFunctionList(List **out) { load(); *out = &list; return OK; }
UL C_GetInterface(B *name, void *version, Interface **out, UL flags) { (void)name; (void)version; (void)flags; load(); *out = &interface; return OK; }
