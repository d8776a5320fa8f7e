#include "share.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "status.h"
#include "wait.h"

typedef struct share_message {
  char magic[8];
  tml_share_id from, to;
} share_message;

static const char share_magic[8] = "tmlshr1";

tml_status tml_share_nonce(unsigned char nonce[TML_NONCE_BYTES])
{
  if (getrandom(nonce, TML_NONCE_BYTES, 0) != TML_NONCE_BYTES)
    return tml_fail(TML_IO, "getrandom: %s", strerror(errno));
  return TML_OK;
}

static socklen_t share_address(const tml_share_id *id, struct sockaddr_un *address)
{
  memset(address, 0, sizeof *address);
  address->sun_family = AF_UNIX;
  char *name = address->sun_path + 1; /* the first byte stays 0: abstract, gone with its owner */
  int used = snprintf(name, sizeof address->sun_path - 1, "tidemill-%d-", (int)id->rank);
  for (int i = 0; i < TML_NONCE_BYTES; ++i) used += snprintf(name + used, 3, "%02x", id->nonce[i]);
  return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)used);
}

static int share_same(const tml_share_id *a, const tml_share_id *b)
{
  return a->rank == b->rank && memcmp(a->nonce, b->nonce, TML_NONCE_BYTES) == 0;
}

static int share_socket(void)
{
  return socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

tml_status tml_share_listen(const tml_share_id *me, int *listener)
{
  struct sockaddr_un address;
  socklen_t length = share_address(me, &address);
  int fd = share_socket();
  *listener = -1;
  if (fd < 0) return tml_fail(TML_IO, "cannot open a Unix socket: %s", strerror(errno));
  if (bind(fd, (struct sockaddr *)&address, length) != 0 || listen(fd, 4 * TML_MAX_WORLD) != 0) {
    int error = errno;
    close(fd);
    return tml_fail(TML_IO, "cannot listen on a Unix socket: %s", strerror(error));
  }
  *listener = fd;
  return TML_OK;
}

static tml_status share_connect(int fd, const tml_share_id *to, uint64_t deadline)
{
  struct sockaddr_un address;
  socklen_t length = share_address(to, &address);
  unsigned pause = 0;
  while (connect(fd, (struct sockaddr *)&address, length) != 0) {
    if (errno != EAGAIN && errno != EINTR) /* EAGAIN: the queue is full */
      return tml_fail(TML_IO, "cannot connect to rank %d over a Unix socket: %s", (int)to->rank,
                      strerror(errno));
    if (tml_now_ns() >= deadline)
      return tml_fail(TML_TIMEOUT, "rank %d accepts no connection on its Unix socket",
                      (int)to->rank);
    tml_pause(&pause);
  }
  return TML_OK;
}

tml_status tml_share_send(const tml_share_id *me, const tml_share_id *to, int fd, uint64_t deadline)
{
  share_message message = {.from = *me, .to = *to};
  memcpy(message.magic, share_magic, sizeof message.magic);
  union {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr align;
  } control = {{0}};
  struct iovec part = {&message, sizeof message};
  struct msghdr header = {.msg_iov = &part,
                          .msg_iovlen = 1,
                          .msg_control = control.bytes,
                          .msg_controllen = sizeof control.bytes};
  struct cmsghdr *rights = CMSG_FIRSTHDR(&header);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(rights), &fd, sizeof fd);
  int sender = share_socket();
  if (sender < 0) return tml_fail(TML_IO, "cannot open a Unix socket: %s", strerror(errno));
  tml_status status = share_connect(sender, to, deadline);
  /* One small message into an empty queue: it fits or the socket is broken. */
  if (status == TML_OK && sendmsg(sender, &header, MSG_NOSIGNAL) != (ssize_t)sizeof message)
    status =
        tml_fail(TML_IO, "cannot send a descriptor to rank %d: %s", (int)to->rank, strerror(errno));
  close(sender);
  return status;
}

/* The descriptor of a message; -1 if there is none. More than one cannot fit the control buffer. */
static int share_take(int connection, share_message *message)
{
  union {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr align;
  } control = {{0}};
  struct iovec part = {message, sizeof *message};
  struct msghdr header = {.msg_iov = &part,
                          .msg_iovlen = 1,
                          .msg_control = control.bytes,
                          .msg_controllen = CMSG_LEN(sizeof(int))};
  int fd = -1;
  memset(message, 0, sizeof *message);
  if (recvmsg(connection, &header, MSG_CMSG_CLOEXEC) < 0) return -1;
  struct cmsghdr *rights = CMSG_FIRSTHDR(&header);
  if (rights && rights->cmsg_level == SOL_SOCKET && rights->cmsg_type == SCM_RIGHTS &&
      rights->cmsg_len == CMSG_LEN(sizeof(int)))
    memcpy(&fd, CMSG_DATA(rights), sizeof fd);
  return fd;
}

/* Whether the connection is from this user; root may be anybody's launcher. */
static int share_trusted(int connection)
{
  struct ucred peer;
  socklen_t length = sizeof peer;
  if (getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) return 0;
  return peer.uid == geteuid() || peer.uid == 0;
}

static int share_wait(int fd, uint64_t deadline)
{
  struct pollfd one = {.fd = fd, .events = POLLIN};
  int got;
  do got = poll(&one, 1, tml_deadline_ms(deadline));
  while (got < 0 && errno == EINTR);
  return got;
}

/* Takes what one connection brings; returns the bit of the rank it came from, 0 for a stranger. */
static unsigned share_accept(int connection, const tml_share_id *me, const tml_share_id *peers,
                             unsigned from, int fds[TML_MAX_WORLD], uint64_t deadline)
{
  share_message message;
  if (!share_trusted(connection) || share_wait(connection, deadline) <= 0) return 0;
  int fd = share_take(connection, &message);
  if (fd < 0) return 0;
  for (int r = 0; r < TML_MAX_WORLD; ++r) {
    if (!(from >> r & 1) || !share_same(&message.from, &peers[r])) continue;
    if (!share_same(&message.to, me) || memcmp(message.magic, share_magic, sizeof share_magic) != 0)
      break;
    fds[r] = fd;
    return 1u << r;
  }
  close(fd);
  return 0;
}

tml_status tml_share_receive(int listener, const tml_share_id *me, const tml_share_id *peers,
                             unsigned from, int fds[TML_MAX_WORLD], uint64_t deadline)
{
  for (int r = 0; r < TML_MAX_WORLD; ++r) fds[r] = -1;
  while (from != 0) {
    int ready = share_wait(listener, deadline);
    if (ready < 0) return tml_fail(TML_IO, "poll on a Unix socket: %s", strerror(errno));
    if (ready == 0)
      return tml_fail(TML_TIMEOUT,
                      "rank %d sent no memory descriptor in time; see whether it still runs",
                      __builtin_ctz(from));
    int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (connection < 0 && (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)) continue;
    if (connection < 0) return tml_fail(TML_IO, "accept on a Unix socket: %s", strerror(errno));
    from &= ~share_accept(connection, me, peers, from, fds, deadline);
    close(connection);
  }
  return TML_OK;
}
