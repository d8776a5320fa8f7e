#include "rendezvous.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../runtime/status.h"
#include "progress.h"

#define RDV_MAGIC 0x746d6c2d72647631ull
#define RDV_TEXT 256

typedef struct hello {
  uint64_t magic, token, command;
  int32_t rank, world;
} hello;

typedef struct answer {
  uint64_t magic;
  int32_t status; /* tml_status */
  char text[RDV_TEXT];
  unsigned char blob[RDV_BLOB_BYTES];
} answer;

static int left_ms(double deadline)
{
  double left = (deadline - seconds_now()) * 1e3;
  return left <= 0 ? 0 : left > 1e9 ? 1000000000 : (int)left + 1;
}

/* All bytes by the deadline, or -1. The sockets are non-blocking. */
static int move_all(int fd, void *data, size_t bytes, int out, double deadline)
{
  char *at = data;
  while (bytes) {
    ssize_t done = out ? send(fd, at, bytes, MSG_NOSIGNAL) : recv(fd, at, bytes, 0);
    if (done > 0) {
      at += done;
      bytes -= (size_t)done;
      continue;
    }
    if (done == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) return -1;
    struct pollfd wait = {.fd = fd, .events = out ? POLLOUT : POLLIN};
    if (left_ms(deadline) == 0) return -1;
    poll(&wait, 1, left_ms(deadline));
  }
  return 0;
}

static int listen_on(const struct sockaddr *address, socklen_t length)
{
  int one = 1;
  int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(fd, address, length) == 0 && listen(fd, 2 * TML_MAX_WORLD) == 0) return fd;
  int error = errno;
  close(fd);
  errno = error;
  return -1;
}

int rdv_listen_any(int *port)
{
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof at;
  int fd = listen_on((struct sockaddr *)&at, sizeof at);
  if (fd < 0 || getsockname(fd, (struct sockaddr *)&at, &length) != 0) {
    tml_fail(TML_IO, "cannot listen on the loopback address: %s", strerror(errno));
    if (fd >= 0) close(fd);
    return -1;
  }
  *port = ntohs(at.sin_port);
  return fd;
}

static tml_status resolve(const rdv *spec, struct addrinfo **out)
{
  struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
  char port[16];
  snprintf(port, sizeof port, "%d", spec->port);
  int error = getaddrinfo(spec->address, port, &hints, out);
  if (error)
    return tml_fail(TML_IO, "cannot resolve MASTER_ADDR \"%s\": %s", spec->address,
                    gai_strerror(error));
  return TML_OK;
}

static tml_status open_listener(const rdv *spec, int *out)
{
  struct addrinfo *list = NULL;
  *out = spec->listener;
  if (*out >= 0) return TML_OK;
  TRY(resolve(spec, &list));
  for (struct addrinfo *a = list; a && *out < 0; a = a->ai_next)
    *out = listen_on(a->ai_addr, a->ai_addrlen);
  int error = errno;
  freeaddrinfo(list);
  if (*out >= 0) return TML_OK;
  return tml_fail(TML_IO,
                  "rank 0 cannot listen on %s:%d: %s; set TIDEMILL_PORT to a free port on "
                  "every rank",
                  spec->address, spec->port, strerror(error));
}

/* "ranks 1, 3 of 4 are missing after 10.0 s ..." */
static tml_status missing(const rdv *spec, const int *fds)
{
  char names[64] = "";
  size_t at = 0;
  int count = 0;
  for (int r = 1; r < spec->world; r++) {
    if (fds[r] >= 0) continue;
    at += (size_t)snprintf(names + at, sizeof names - at, "%s%d", count ? ", " : "", r);
    count++;
  }
  return tml_fail(TML_TIMEOUT,
                  "rank%s %s of %d did not come to the rendezvous within %.1f s; look for "
                  "what kept %s from starting, or raise --timeout",
                  count > 1 ? "s" : "", names, spec->world, spec->timeout_s,
                  count > 1 ? "them" : "it");
}

/* Checks one greeting. OK with *rank -1: a stranger, to be dropped. */
static tml_status greet(const rdv *spec, int fd, const int *fds, double deadline, int *rank)
{
  hello in;
  double soon = seconds_now() + 1;
  *rank = -1;
  if (move_all(fd, &in, sizeof in, 0, soon < deadline ? soon : deadline) != 0) return TML_OK;
  if (in.magic != RDV_MAGIC || in.token != spec->token) return TML_OK;
  if (in.world != spec->world || in.rank < 1 || in.rank >= spec->world)
    return tml_fail(TML_DISAGREE,
                    "a process came as rank %d of %d, but rank 0 counts %d ranks; start "
                    "all with one world size",
                    in.rank, in.world, spec->world);
  if (fds[in.rank] >= 0)
    return tml_fail(TML_DISAGREE, "two processes came as rank %d; give every process its own RANK",
                    in.rank);
  *rank = in.rank;
  if (in.command != spec->command)
    return tml_fail(TML_DISAGREE,
                    "rank %d was started with another command line than rank 0; start all "
                    "ranks with the same one",
                    in.rank);
  return TML_OK;
}

static tml_status gather_ranks(const rdv *spec, int listener, int *fds, double deadline)
{
  int here = 1;
  while (here < spec->world) {
    struct pollfd wait = {.fd = listener, .events = POLLIN};
    if (left_ms(deadline) == 0) return missing(spec, fds);
    if (poll(&wait, 1, left_ms(deadline)) <= 0) continue;
    int rank, fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) continue;
    tml_status status = greet(spec, fd, fds, deadline, &rank);
    if (rank >= 0) fds[rank] = fd;
    if (rank < 0) close(fd);
    TRY(status);
    here += rank >= 0;
  }
  return TML_OK;
}

static tml_status meet_as_root(const rdv *spec, const unsigned char *blob, double deadline)
{
  int listener = -1, fds[TML_MAX_WORLD];
  for (int r = 0; r < TML_MAX_WORLD; r++) fds[r] = -1;
  TRY(open_listener(spec, &listener));
  tml_status status = gather_ranks(spec, listener, fds, deadline);
  answer out = {.magic = RDV_MAGIC, .status = (int32_t)status};
  memcpy(out.blob, blob, RDV_BLOB_BYTES);
  if (status != TML_OK) snprintf(out.text, sizeof out.text, "%s", tml_last_error());
  for (int r = 1; r < spec->world; r++) {
    if (fds[r] < 0) continue;
    /* A rank that died meanwhile is found by the first collective; here it costs at most 1 s. */
    move_all(fds[r], &out, sizeof out, 1, seconds_now() + 1);
    close(fds[r]);
  }
  close(listener);
  return status;
}

static int connect_once(const rdv *spec, double deadline, tml_status *status)
{
  struct addrinfo *list = NULL;
  int fd = -1;
  *status = resolve(spec, &list);
  if (*status != TML_OK) return -1;
  for (struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
    int error = 0;
    socklen_t length = sizeof error;
    fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) continue;
    struct pollfd wait = {.fd = fd, .events = POLLOUT};
    if (connect(fd, a->ai_addr, a->ai_addrlen) == 0) break;
    if (errno == EINPROGRESS && poll(&wait, 1, left_ms(deadline)) > 0 &&
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) == 0 && error == 0)
      break;
    close(fd);
    fd = -1;
  }
  freeaddrinfo(list);
  return fd;
}

static tml_status meet_as_guest(const rdv *spec, unsigned char *blob, double deadline)
{
  hello out = {RDV_MAGIC, spec->token, spec->command, spec->rank, spec->world};
  answer in;
  tml_status status = TML_OK;
  int fd = -1;
  while ((fd = connect_once(spec, deadline, &status)) < 0) {
    TRY(status);
    if (left_ms(deadline) == 0)
      return tml_fail(TML_TIMEOUT,
                      "rank 0 did not come to the rendezvous at %s:%d within %.1f s; look "
                      "for what kept it from starting, or raise --timeout",
                      spec->address, spec->port, spec->timeout_s);
    usleep(20000);
  }
  /* Rank 0 answers at its own deadline, which may lie later than ours: it started later. */
  int bad = move_all(fd, &out, sizeof out, 1, deadline) != 0 ||
            move_all(fd, &in, sizeof in, 0, deadline + spec->timeout_s + 1) != 0;
  close(fd);
  if (bad || in.magic != RDV_MAGIC)
    return tml_fail(TML_TIMEOUT,
                    "rank 0 left the rendezvous without an answer; its own message says "
                    "why (or another job uses %s:%d: set TIDEMILL_PORT)",
                    spec->address, spec->port);
  in.text[RDV_TEXT - 1] = 0;
  if (in.status != TML_OK) return tml_fail((tml_status)in.status, "%s", in.text);
  memcpy(blob, in.blob, RDV_BLOB_BYTES);
  return TML_OK;
}

tml_status rdv_meet(const rdv *spec, unsigned char blob[RDV_BLOB_BYTES])
{
  double deadline = seconds_now() + spec->timeout_s;
  if (spec->world == 1) return TML_OK;
  if (spec->rank == 0) return meet_as_root(spec, blob, deadline);
  return meet_as_guest(spec, blob, deadline);
}
