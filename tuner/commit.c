#include "commit.h"

#include "built_commit.h" /* by commit.cmake */

const char *commit_text(void) { return TML_COMMIT; }
