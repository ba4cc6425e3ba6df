/* SPDX-License-Identifier: MIT */
/*
 * error.h: the errors a call can return, once: XX(name, sentence).
 *
 * Every errno value of Linux is here, since operations pass on what the kernel says. Where this
 * library returns one itself, the sentence says what it means here. EWOULDBLOCK, EDEADLOCK and
 * ENOTSUP are other names of EAGAIN, EDEADLK and EOPNOTSUPP.
 */
#ifndef WEIR_ERROR_H
#define WEIR_ERROR_H

#include <errno.h>

/* clang-format off */
#define WEIR_ERRNO_MAP(XX) \
	XX(EPERM, "operation not permitted") \
	XX(ENOENT, "no such file or directory") \
	XX(ESRCH, "no such process") \
	XX(EINTR, "interrupted") \
	XX(EIO, "input/output error") \
	XX(ENXIO, "no such device or address") \
	XX(E2BIG, "argument list or structure too long") \
	XX(ENOEXEC, "not an executable file") \
	XX(EBADF, "bad file descriptor") \
	XX(ECHILD, "no child process") \
	XX(EAGAIN, "would have to wait") \
	XX(ENOMEM, "out of memory") \
	XX(EACCES, "permission denied") \
	XX(EFAULT, "bad address") \
	XX(ENOTBLK, "not a block device") \
	XX(EBUSY, "in use by another") \
	XX(EEXIST, "exists already") \
	XX(EXDEV, "belongs to another worker or device") \
	XX(ENODEV, "no such device") \
	XX(ENOTDIR, "not a directory") \
	XX(EISDIR, "is a directory") \
	XX(EINVAL, "invalid argument") \
	XX(ENFILE, "too many open files in the system") \
	XX(EMFILE, "too many open files in the process") \
	XX(ENOTTY, "not a terminal") \
	XX(ETXTBSY, "program file is being run") \
	XX(EFBIG, "file too large") \
	XX(ENOSPC, "no space left") \
	XX(ESPIPE, "cannot seek") \
	XX(EROFS, "file system is read-only") \
	XX(EMLINK, "too many links") \
	XX(EPIPE, "broken pipe: the other side no longer reads") \
	XX(EDOM, "argument outside the function's domain") \
	XX(ERANGE, "result cannot be represented") \
	XX(EDEADLK, "would deadlock") \
	XX(ENAMETOOLONG, "name too long") \
	XX(ENOLCK, "no lock available") \
	XX(ENOSYS, "not offered by this kernel") \
	XX(ENOTEMPTY, "directory not empty") \
	XX(ELOOP, "too many symbolic links") \
	XX(ENOMSG, "no message of the wanted type") \
	XX(EIDRM, "identifier removed") \
	XX(ECHRNG, "channel number out of range") \
	XX(EL2NSYNC, "level 2 not synchronised") \
	XX(EL3HLT, "level 3 halted") \
	XX(EL3RST, "level 3 reset") \
	XX(ELNRNG, "link number out of range") \
	XX(EUNATCH, "protocol driver not attached") \
	XX(ENOCSI, "no CSI structure available") \
	XX(EL2HLT, "level 2 halted") \
	XX(EBADE, "invalid exchange") \
	XX(EBADR, "invalid request descriptor") \
	XX(EXFULL, "exchange full") \
	XX(ENOANO, "no anode") \
	XX(EBADRQC, "invalid request code") \
	XX(EBADSLT, "invalid slot") \
	XX(EBFONT, "bad font file") \
	XX(ENOSTR, "device not a stream") \
	XX(ENODATA, "stream ended before all data had come") \
	XX(ETIME, "deadline of the scope has passed") \
	XX(ENOSR, "out of stream resources") \
	XX(ENONET, "machine not on the network") \
	XX(ENOPKG, "package not installed") \
	XX(EREMOTE, "object is remote") \
	XX(ENOLINK, "link severed") \
	XX(EADV, "advertise error") \
	XX(ESRMNT, "srmount error") \
	XX(ECOMM, "communication error on send") \
	XX(EPROTO, "protocol error") \
	XX(EMULTIHOP, "multihop attempted") \
	XX(EDOTDOT, "RFS error") \
	XX(EBADMSG, "bad message") \
	XX(EOVERFLOW, "value too large for its type") \
	XX(ENOTUNIQ, "name not unique on the network") \
	XX(EBADFD, "file descriptor in a bad state") \
	XX(EREMCHG, "remote address changed") \
	XX(ELIBACC, "cannot access a shared library") \
	XX(ELIBBAD, "shared library corrupted") \
	XX(ELIBSCN, ".lib section corrupted") \
	XX(ELIBMAX, "too many shared libraries") \
	XX(ELIBEXEC, "cannot run a shared library directly") \
	XX(EILSEQ, "illegal byte sequence") \
	XX(ERESTART, "interrupted, to be restarted") \
	XX(ESTRPIPE, "streams pipe error") \
	XX(EUSERS, "too many users") \
	XX(ENOTSOCK, "not a socket") \
	XX(EDESTADDRREQ, "destination address required") \
	XX(EMSGSIZE, "message too long") \
	XX(EPROTOTYPE, "wrong protocol for the socket type") \
	XX(ENOPROTOOPT, "protocol option not available") \
	XX(EPROTONOSUPPORT, "protocol not supported") \
	XX(ESOCKTNOSUPPORT, "socket type not supported") \
	XX(EOPNOTSUPP, "operation not supported") \
	XX(EPFNOSUPPORT, "protocol family not supported") \
	XX(EAFNOSUPPORT, "address family not supported") \
	XX(EADDRINUSE, "address in use") \
	XX(EADDRNOTAVAIL, "address not available on this machine") \
	XX(ENETDOWN, "network is down") \
	XX(ENETUNREACH, "network unreachable") \
	XX(ENETRESET, "network dropped the connection") \
	XX(ECONNABORTED, "connection aborted") \
	XX(ECONNRESET, "connection reset by peer") \
	XX(ENOBUFS, "no buffer left") \
	XX(EISCONN, "connected already") \
	XX(ENOTCONN, "not connected") \
	XX(ESHUTDOWN, "shut down for sending") \
	XX(ETOOMANYREFS, "too many references") \
	XX(ETIMEDOUT, "connection timed out") \
	XX(ECONNREFUSED, "connection refused") \
	XX(EHOSTDOWN, "host is down") \
	XX(EHOSTUNREACH, "no route to host") \
	XX(EALREADY, "in progress already") \
	XX(EINPROGRESS, "in progress") \
	XX(ESTALE, "stale file handle") \
	XX(EUCLEAN, "file system needs cleaning") \
	XX(ENOTNAM, "not a XENIX named file") \
	XX(ENAVAIL, "no XENIX semaphores") \
	XX(EISNAM, "is a named file") \
	XX(EREMOTEIO, "remote input/output error") \
	XX(EDQUOT, "quota exceeded") \
	XX(ENOMEDIUM, "no medium") \
	XX(EMEDIUMTYPE, "wrong medium type") \
	XX(ECANCELED, "cancelled") \
	XX(ENOKEY, "key not available") \
	XX(EKEYEXPIRED, "key expired") \
	XX(EKEYREVOKED, "key revoked") \
	XX(EKEYREJECTED, "key rejected") \
	XX(EOWNERDEAD, "owner died") \
	XX(ENOTRECOVERABLE, "state not recoverable") \
	XX(ERFKILL, "radio switched off") \
	XX(EHWPOISON, "memory page has a hardware error")
/* clang-format on */

#endif
