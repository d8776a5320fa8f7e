#include "output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
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

int output_standard(const char *path) { return path && strcmp(path, "-") == 0; }

FILE *output_beside(const char *path)
{
  static FILE *nowhere; /* kept as long as the process lives */
  if (!output_standard(path)) return stdout;
  if (!nowhere) nowhere = fopen("/dev/null", "w");
  return nowhere ? nowhere : stderr;
}

static int cannot_write(const char *path)
{
  return cli_fail("cannot write %s: %s", path, strerror(errno));
}

/* The folder that a new file needs; "." if the path names none. */
static int can_create(const char *path)
{
  const char *slash = strrchr(path, '/');
  char *folder = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
  int can = folder && access(folder, W_OK | X_OK) == 0;
  free(folder);
  return can;
}

int output_check(const char *path)
{
  struct stat at;
  if (!path || output_standard(path)) return CLI_OK;
  int found = stat(path, &at) == 0, can = 0;
  if (found && S_ISDIR(at.st_mode))
    errno = EISDIR;
  else if (found)
    can = access(path, W_OK) == 0;
  else if (errno == ENOENT)
    can = can_create(path);
  return can ? CLI_OK : cannot_write(path);
}

static int write_text(const char *path, const char *text)
{
  if (output_standard(path)) {
    fprintf(stdout, "%s\n", text); /* output_end tells of errors */
    return CLI_OK;
  }
  FILE *to = fopen(path, "w");
  if (!to) return cannot_write(path);
  int bad = fprintf(to, "%s\n", text) < 0;
  bad |= fclose(to) != 0;
  return bad ? cannot_write(path) : CLI_OK;
}

/* Paths and messages come from outside and may be cut: a byte that is no UTF-8 becomes '?'. */
static void mend(char *text)
{
  for (char *c = text; c && *c;) {
    int bytes = *c == '\n' || *c == '\t' ? 1 : cli_character(c);
    if (bytes == 0) *c = '?';
    c += bytes ? bytes : 1;
  }
}

int output_json(const char *path, cJSON *root)
{
  char *text = cJSON_Print(root);
  mend(text);
  int code = text ? write_text(path, text) : cli_fail("out of memory for %s", path);
  cJSON_free(text);
  cJSON_Delete(root);
  return code;
}
