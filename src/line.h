/* line.h - lines that a user types at the prompt of the minikvm program. */
#ifndef MK_LINE_H
#define MK_LINE_H

#include <lua.h>

/* open_editor([history]): from now on read_line() edits lines, if this is a terminal and libedit is
 * there; lines are kept in the file `history`. */
int mk_line_open(lua_State *L);
/* read_line(prompt) -> the line; nil at the end of input; false when Ctrl-C dropped it. Handlers of
 * VMs that run are called meanwhile. */
int mk_line_read(lua_State *L);
/* complete_with(fn): from now on Tab offers what fn(line, text, end) returns, a list of words in
 * place of `text`, which ends before character `end` of the line. It is called while read_line()
 * waits. */
int mk_line_complete_with(lua_State *L);
/* remember(line): adds it to the history, where lines are edited. */
int mk_line_add_history(lua_State *L);

#endif
