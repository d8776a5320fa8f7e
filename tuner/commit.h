/* The commit that the program was built from: not that of the folder in which it runs. */
#ifndef TML_COMMIT_H
#define TML_COMMIT_H

/* "6f2ff65", with "-dirty" where files differed from it; "unknown" if it was built outside of a repository. */
const char *commit_text(void);

#endif
