/* other.c - a second translation unit that includes the header bare, beside smoke.c. */
#include "psocket.h"

const char *other_text(void);

const char *other_text(void)
{
    return psocket_strerror(PSOCKET_TIMEOUT);
}
