/* Ctrl-C and SIGTERM: a thread of their own keeps what was done, removes what would be left behind, says how
 * to go on, and ends the program with 128 + the signal. A second
 * signal, later than an echo of the first, ends it at once. */
#ifndef TML_STOP_H
#define TML_STOP_H

/* Before any other thread or process is started; more than once is fine. A signal that was ignored (nohup)
 * stays ignored. Processes forked later have both signals blocked: they end with this one. */
void stop_catch(void);
/* What is then published: the part of this bank (isa as in tml_api). Both texts stay valid. */
void stop_keeps(const char *bank, const char *isa);
/* How far the work is, in units of `what`; from this process or those it forked. */
void stop_progress(int done, int total, const char *what);
/* The key of the mark that was written to the bank just now; "": it was cleared. */
void stop_marks(const char *key);
/* Before anything is written or told: never returns once a signal has come. */
void stop_yield(void);

#endif
