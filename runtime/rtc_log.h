/* Reads NVRTC's log: resources of the kernel, and whether its code may be used. */
#ifndef TML_RTC_LOG_H
#define TML_RTC_LOG_H

#include "rtc.h"

/* Fills registers, smem_static, local_bytes, spill_bytes, barriers and refused. With several
 * kernels in one program: the largest of each. */
void rtc_parse_log(const char *log, tml_build *out);
/* Copies the first line that reports an error; 0 if none does. */
int rtc_first_error(const char *log, char *line, size_t bytes);

#endif
