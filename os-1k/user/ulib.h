/* ulib.h - the library that every program is linked with. */
#ifndef ULIB_H
#define ULIB_H

#include <stdbool.h>
#include <stdint.h>

#include "number.h"
#include "str.h"
#include "syscall.h"

int main(void); /* every program has one; its result is the exit status */

/* system calls */
void exit(int status) __attribute__((noreturn)); /* prints what is still buffered */
int write(const void *buffer, uint32_t length);
int read(void *buffer, uint32_t length);
uint32_t uptime(void);
uint32_t ticks(void);
int sleep(uint32_t ms);
int sysinfo(struct sysinfo *info);
int exec(const char *name);
int syscall(uint32_t number, uint32_t a, uint32_t b); /* for those who want to do it by hand */

/* Prints into a buffer that goes out when it is full, before input is read, and at the end: one
 * system call for many lines. */
void printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void flush(void);

/* Shows a prompt and reads a line without its '\n'. Returns its length, READ_END at the end of
 * input, or READ_INTR after Ctrl-C. */
#define READ_END (-1)
#define READ_INTR (-2)
int readline(const char *prompt, char *line, uint32_t size);

/* The same for programs that read until the user types q: false then, and at the end. */
bool ask(const char *prompt, char *line, uint32_t size);

#endif
