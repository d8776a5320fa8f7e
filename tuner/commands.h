/* The program's commands: name, what it does. Each is cmd_NAME(argc, argv) -> exit code. */
#ifndef TML_COMMANDS_H
#define TML_COMMANDS_H

#define COMMAND_MAP(X)                                                              \
  X(build, "compile variants into a bank; needs NVRTC, no GPU")                     \
  X(list, "list variants of the space or of a bank")                                \
  X(show, "print a variant's exact CUDA text, its row or its cubin")                \
  X(explain, "why a problem gets its variant, or what a variant is made of")        \
  X(tune, "measure candidates on the GPUs and store the fastest")                   \
  X(bench, "time picks beside cuBLASLt and NCCL")                                   \
  X(check, "compare results with the fp32 reference; replay graphs; inject faults") \
  X(doctor, "what this machine and a bank have, and what they lack")

#define COMMAND_DECLARE(name, about) int cmd_##name(int argc, char **argv);
COMMAND_MAP(COMMAND_DECLARE)
#undef COMMAND_DECLARE

#endif
