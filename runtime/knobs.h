/* The environment variables, once: parsed by ctx.c, printed by `tidemill doctor`.
 * X(field of tml_config, variable, default as shown, help). A config field that is set wins. */
#ifndef TML_KNOBS_H
#define TML_KNOBS_H

#define TML_KNOB_MAP(TEXT, FLAG, REAL)                                                         \
  TEXT(bank, "TIDEMILL_BANK", "none", "path of the bank")                                      \
  TEXT(source_dir, "TIDEMILL_SOURCE", "embedded",                                              \
       "folder with gen/ and templates/, read instead of the embedded copies")                 \
  TEXT(force, "TIDEMILL_FORCE", "none", "name of the variant that every plan must use")        \
  FLAG(no_jit, "TIDEMILL_NO_JIT", "0", "1: never compile at load time")                        \
  FLAG(strict, "TIDEMILL_STRICT", "0", "1: never pick nccl or cublaslt")                       \
  FLAG(bank_writable, "TIDEMILL_BANK_WRITABLE", "0", "1: keep what was compiled at load time") \
  REAL(timeout_us, "TIDEMILL_TIMEOUT_US", "10000000",                                          \
       "bound of every wait, in microseconds; 100000 .. 600000000")

#endif
