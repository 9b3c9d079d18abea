/* http.c - see http.h. */
#include "codec/http.h"

#include <string.h>
#include <strings.h>

static const char *const names[MK_HTTP_FIELDS] = {
    [MK_HTTP_HOST] = "host",
    [MK_HTTP_ORIGIN] = "origin",
    [MK_HTTP_UPGRADE] = "upgrade",
    [MK_HTTP_CONNECTION] = "connection",
    [MK_HTTP_WS_KEY] = "sec-websocket-key",
    [MK_HTTP_WS_VERSION] = "sec-websocket-version",
};

size_t mk_http_head(const char *bytes, size_t have)
{
    const char *end = memmem(bytes, have, "\r\n\r\n", 4);
    return end ? (size_t)(end - bytes) + 4 : 0;
}

bool mk_http_is(struct mk_http_text text, const char *what)
{
    return text.at && text.length == strlen(what) && memcmp(text.at, what, text.length) == 0;
}

static bool is_word(const char *at, size_t length, const char *word)
{
    return length == strlen(word) && strncasecmp(at, word, length) == 0;
}

bool mk_http_lists(struct mk_http_text text, const char *word)
{
    const char *at = text.at ? text.at : "", *end = at + text.length;
    while (at < end) {
        const char *comma = memchr(at, ',', (size_t)(end - at));
        const char *stop = comma ? comma : end;
        while (at < stop && (*at == ' ' || *at == '\t'))
            at++;
        size_t length = (size_t)(stop - at);
        while (length && (at[length - 1] == ' ' || at[length - 1] == '\t'))
            length--;
        if (is_word(at, length, word))
            return true;
        at = stop + 1;
    }
    return false;
}

/* "GET PATH HTTP/1.1" */
static int parse_request_line(const char *at, size_t length, struct mk_http_request *r)
{
    static const char version[] = " HTTP/1.1";
    size_t tail = sizeof(version) - 1;
    if (length < 5 + tail || memcmp(at, "GET ", 4) != 0)
        return memchr(at, ' ', length) ? 405 : 400;
    if (memcmp(at + length - tail, version, tail) != 0)
        return 505;
    r->path = (struct mk_http_text){ at + 4, length - 4 - tail };
    bool plain = r->path.at[0] == '/';
    for (size_t i = 0; i < r->path.length; i++)
        plain &= r->path.at[i] > ' ' && r->path.at[i] < 127;
    return plain ? 0 : 400;
}

/* Characters of a field's name (RFC 9110, 5.6.2). */
static bool is_token(const char *at, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (at[i] <= ' ' || at[i] >= 127 || strchr("\"(),/:;<=>?@[\\]{}", at[i]))
            return false;
    return length > 0;
}

static bool is_value(const char *at, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (((unsigned char)at[i] < ' ' && at[i] != '\t') || at[i] == 127)
            return false;
    return true;
}

/* A field that is known may be there once; one that says that a body follows, never. */
static int parse_field(const char *at, size_t length, struct mk_http_request *r)
{
    const char *colon = memchr(at, ':', length);
    size_t name = colon ? (size_t)(colon - at) : 0;
    if (!colon || !is_token(at, name) || !is_value(colon + 1, length - name - 1))
        return 400;
    const char *value = colon + 1, *end = at + length;
    while (value < end && (*value == ' ' || *value == '\t'))
        value++;
    while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    if (is_word(at, name, "content-length") || is_word(at, name, "transfer-encoding"))
        return 400;
    for (unsigned i = 0; i < MK_HTTP_FIELDS; i++) {
        if (!is_word(at, name, names[i]))
            continue;
        if (r->field[i].at)
            return 400;
        r->field[i] = (struct mk_http_text){ value, (size_t)(end - value) };
    }
    return 0;
}

int mk_http_parse(const char *head, size_t length, struct mk_http_request *r)
{
    const char *at = head, *end = head + length - 2; /* of the empty line */
    *r = (struct mk_http_request){ 0 };
    for (bool first = true; at < end; first = false) {
        const char *stop = memmem(at, (size_t)(end - at), "\r\n", 2);
        if (!stop)
            return 400;
        size_t line = (size_t)(stop - at);
        int status = first ? parse_request_line(at, line, r) : parse_field(at, line, r);
        if (status)
            return status;
        at = stop + 2;
    }
    return 0;
}
