/* SoftHSM with the habits of other modules, for tests/hsm/habits.rs.
 *
 * HABITS names them, separated by blanks:
 *   endless       C_FindObjects gives handles for ever
 *   late-keys     all sessions are logged in for a while before C_Login returns and keys are shown
 *   no-time       the token's utcTime is no time, as opencryptoki 3.8 has it
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <dlfcn.h>

typedef unsigned long UL;
typedef unsigned char B;
/* CK_FUNCTION_LIST of PKCS#11 2.40. */
typedef struct { B major, minor; void *f[68]; } List;
typedef struct { B label[32], manufacturer[32], model[16], serial[16]; UL flags, numbers[10]; B versions[4], time[16]; } TokenInfo;

enum { GET_TOKEN_INFO = 6, LOGIN = 18, FIND_OBJECTS = 27 };
enum { OK = 0, CLOCK_ON_TOKEN = 0x40 };

static List real, list;

static int has(const char *habit) {
    const char *all = getenv("HABITS");
    size_t n = strlen(habit);
    for (; all && *all; all += strcspn(all, " "), all += *all == ' ')
        if (strncmp(all, habit, n) == 0 && (all[n] == ' ' || all[n] == 0)) return 1;
    return 0;
}

static UL get_token_info(UL slot, TokenInfo *info) {
    UL code = ((UL (*)(UL, TokenInfo *))real.f[GET_TOKEN_INFO])(slot, info);
    if (code == OK && has("no-time")) { info->flags |= CLOCK_ON_TOKEN; memset(info->time, 0xff, sizeof info->time); }
    return code;
}

static volatile int logging_in;

static UL login(UL session, UL user, B *pin, UL length) {
    UL code;
    logging_in = has("late-keys");
    code = ((UL (*)(UL, UL, B *, UL))real.f[LOGIN])(session, user, pin, length);
    if (logging_in) usleep(500000);
    logging_in = 0;
    return code;
}

static UL find_objects(UL session, UL *handles, UL room, UL *count) {
    UL n, code = ((UL (*)(UL, UL *, UL, UL *))real.f[FIND_OBJECTS])(session, handles, room, count);
    if (code == OK && logging_in) *count = 0;
    if (code != OK || !has("endless")) return code;
    for (n = *count; n < room; n++) handles[n] = 1000000 + n;
    *count = room;
    return OK;
}

UL C_GetFunctionList(List **out) {
    void *library = dlopen(SOFTHSM, RTLD_NOW | RTLD_LOCAL);
    List *found = NULL;
    if (!library) return 5;
    ((UL (*)(List **))dlsym(library, "C_GetFunctionList"))(&found);
    real = list = *found;
    list.f[GET_TOKEN_INFO] = get_token_info;
    list.f[LOGIN] = login;
    list.f[FIND_OBJECTS] = find_objects;
    *out = &list;
    return OK;
}
