/* The rendezvous: where ranks meet before any library could block on one that is missing.
 *
 * Rank 0 listens on TCP; the others connect, say who they are, and get rank 0's blob (NCCL's
 * unique id) once everybody is there. Every step is bounded; whoever is missing is named on
 * every rank that is present. A token keeps strangers and other jobs out; the hash of the
 * command line keeps out ranks that were started to do something else. */
#ifndef TML_RENDEZVOUS_H
#define TML_RENDEZVOUS_H

#include <stddef.h>
#include <stdint.h>

#include "../runtime/tidemill.h"

#define RDV_BLOB_BYTES 128

typedef struct rdv {
  int rank, world;
  const char *address; /* of rank 0 */
  int port;
  int listener; /* rank 0: a listening socket, taken over; -1: listen on the port */
  uint64_t token, command;
  double timeout_s;
} rdv;

/* A listening loopback socket on a free port; -1 with the reason in the error text. */
int rdv_listen_any(int *port);
/* Collective. blob: given by rank 0, received by the others. TIMEOUT names the missing ranks;
 * DISAGREE a rank with another command line or two with one number; IO. */
tml_status rdv_meet(const rdv *spec, unsigned char blob[RDV_BLOB_BYTES]);

#endif
