#include "output.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "cli.h"

void output_begin(void)
{
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
    if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) != fd)
      return; /* it takes the lowest number, which is fd; a machine without /dev/null gets no such care */
}

int output_end(int code)
{
  if (fflush(stdout) == 0 && !ferror(stdout)) return code;
  /* The reason is that of an earlier write, whose errno is lost. */
  cli_fail("the standard output did not take everything: it is closed, its disk is full, or its "
           "reader has left");
  return code ? code : CLI_FAILED;
}
