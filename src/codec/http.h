/* http.h - the head of an HTTP/1.1 request (RFC 9112), read strictly: what is not as it should be
 * is refused, not guessed at. Only GET, without a body. */
#ifndef MK_HTTP_H
#define MK_HTTP_H

#include "base/util.h"

#define MK_HTTP_HEAD 4096 /* bytes of a head */

struct mk_http_text {
    const char *at; /* in the head; NULL: not there */
    size_t length;
};

enum mk_http_field {
    MK_HTTP_HOST,
    MK_HTTP_ORIGIN,
    MK_HTTP_UPGRADE,
    MK_HTTP_CONNECTION,
    MK_HTTP_WS_KEY,
    MK_HTTP_WS_VERSION,
    MK_HTTP_FIELDS,
};

struct mk_http_request {
    struct mk_http_text path;
    struct mk_http_text field[MK_HTTP_FIELDS];
};

/* Length of the head that begins `bytes`, with its empty line; 0: it goes on. */
size_t mk_http_head(const char *bytes, size_t have);
/* Reads a whole head. 0, or the status that it is answered with: 400, 405, 505. */
int mk_http_parse(const char *head, size_t length, struct mk_http_request *r);
/* Whether a text is this one; whether it has this word in a list between commas, in any case. */
bool mk_http_is(struct mk_http_text text, const char *what);
bool mk_http_lists(struct mk_http_text text, const char *word);

#endif
