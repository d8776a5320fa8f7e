/* Status texts and the thread's detail. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "status.h"

static void texts(void **state)
{
  (void)state;
#define TML_X(id, n, text) assert_string_equal(tml_status_text(TML_##id), text);
  TML_STATUS_MAP(TML_X)
#undef TML_X
  assert_string_equal(tml_status_text((tml_status)99), "unknown status");
}

static void fail_and_wrap(void **state)
{
  (void)state;
  tml_clear_error();
  assert_string_equal(tml_last_error(), "");
  assert_int_equal(tml_fail(TML_ARGUMENT, "m = %d", 3), TML_ARGUMENT);
  assert_string_equal(tml_last_error(), "m = 3");
  assert_int_equal(tml_wrap(TML_ARGUMENT, "plan %s", "x"), TML_ARGUMENT);
  assert_string_equal(tml_last_error(), "plan x: m = 3");
  /* the old detail may be an argument of the new one */
  tml_fail(TML_IO, "again: %s", tml_last_error());
  assert_string_equal(tml_last_error(), "again: plan x: m = 3");
  tml_clear_error();
  tml_wrap(TML_MEMORY, "here");
  assert_string_equal(tml_last_error(), "here: out of memory");
}

static void long_details_are_cut(void **state)
{
  (void)state;
  char text[5000];
  memset(text, 'x', sizeof text - 1);
  text[sizeof text - 1] = 0;
  tml_fail(TML_IO, "%s", text);
  size_t kept = strlen(tml_last_error());
  assert_true(kept > 500 && kept < sizeof text);
  for (int i = 0; i < 10; i++) tml_wrap(TML_IO, "%s", text);
  assert_int_equal(strlen(tml_last_error()), kept);
}

static void *other_thread(void *seen)
{
  *(int *)seen = tml_last_error()[0] == 0;
  tml_fail(TML_IO, "other");
  return NULL;
}

static void version(void **state)
{
  (void)state;
  assert_string_equal(tml_version(), TML_VERSION);
}

static void detail_is_per_thread(void **state)
{
  (void)state;
  pthread_t thread;
  int empty = 0;
  tml_fail(TML_IO, "mine");
  assert_int_equal(pthread_create(&thread, NULL, other_thread, &empty), 0);
  pthread_join(thread, NULL);
  assert_true(empty);
  assert_string_equal(tml_last_error(), "mine");
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(version),
      cmocka_unit_test(texts),
      cmocka_unit_test(fail_and_wrap),
      cmocka_unit_test(long_details_are_cut),
      cmocka_unit_test(detail_is_per_thread),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
