/* Passing file descriptors between the processes of a group: abstract Unix sockets, SCM_RIGHTS.
 *
 * Each rank draws a random nonce, published through the group; its socket's name holds the nonce
 * and the rank. A message names both nonces, so that a stranger who reads the name in /proc can
 * neither take nor plant a descriptor; connections from other users are dropped. Sending never
 * waits for the receiver, so all ranks may send to all and then receive. */
#ifndef TML_SHARE_H
#define TML_SHARE_H

#include <stdint.h>

#include "tidemill.h"

#define TML_NONCE_BYTES 16

typedef struct tml_share_id {
  unsigned char nonce[TML_NONCE_BYTES];
  int32_t rank;
} tml_share_id;

/* IO, if the kernel has no random bytes. */
tml_status tml_share_nonce(unsigned char nonce[TML_NONCE_BYTES]);
/* A listening socket of this name; the caller closes it. IO. */
tml_status tml_share_listen(const tml_share_id *me, int *listener);
/* Sends fd to a peer that listens already. IO, TIMEOUT. */
tml_status tml_share_send(const tml_share_id *me, const tml_share_id *to, int fd,
                          uint64_t deadline);
/* Receives from every peer whose bit is set in `from`: fds[rank]. peers[rank] are their ids. On
 * failure what has come is in fds too (-1: nothing); the caller closes them. IO, TIMEOUT (names the
 * ranks). */
tml_status tml_share_receive(int listener, const tml_share_id *me, const tml_share_id *peers,
                             unsigned from, int fds[TML_MAX_WORLD], uint64_t deadline);

#endif
