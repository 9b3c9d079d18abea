/* websocket.h - the WebSocket protocol (RFC 6455), as far as a server without extensions needs it:
 * the answer to a handshake, headers of frames that are sent, frames that a client has sent. */
#ifndef MK_WEBSOCKET_H
#define MK_WEBSOCKET_H

#include "base/util.h"

#define MK_WS_KEY 24    /* characters of Sec-WebSocket-Key: 16 bytes as base64 */
#define MK_WS_ACCEPT 28 /* of the answer */
#define MK_WS_HEADER 10
#define MK_WS_LONGEST 1024 /* bytes of a client's frame */

enum mk_ws_opcode {
    MK_WS_TEXT = 1,
    MK_WS_BINARY = 2,
    MK_WS_CLOSE = 8,
    MK_WS_PING = 9,
    MK_WS_PONG = 10,
};

/* Why a connection is closed (RFC 6455, 7.4.1). */
enum { MK_WS_GONE = 1001, MK_WS_WRONG = 1002, MK_WS_REFUSED = 1003, MK_WS_TOO_BIG = 1009 };

/* Sec-WebSocket-Accept for a key, with a NUL (4.2.2). */
void mk_ws_accept(const char key[MK_WS_KEY], char accept[MK_WS_ACCEPT + 1]);

/* The header of a whole message in one frame; returns its length. */
size_t mk_ws_header(uint8_t header[MK_WS_HEADER], enum mk_ws_opcode opcode, uint64_t length);

struct mk_ws_frame {
    enum mk_ws_opcode opcode;
    uint8_t *data; /* unmasked, where it lies */
    size_t length;
};

/* The frame at the beginning of what a client has sent. Returns how many bytes it has; 0: more must
 * come; below 0: it is wrong, and the connection is to be closed for -that reason. Messages in
 * several frames are refused. */
int mk_ws_take(uint8_t *bytes, size_t have, struct mk_ws_frame *frame);

#endif
