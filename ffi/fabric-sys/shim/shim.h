/*
 * What bindgen reads: the libfabric headers Tidegate uses, and one plain function for each function that is
 * called: the exported ones are looked up when the library is loaded, all others are inline in the headers
 * and have no symbol. A call moves up to a megabyte, so what a shim costs is nothing.
 */
#ifndef TIDEGATE_FABRIC_SHIM_H
#define TIDEGATE_FABRIC_SHIM_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_eq.h>
#include <rdma/fi_errno.h>
#include <rdma/fi_rma.h>

/* The library. */

/* The version of the headers, FI_VERSION(major, minor): what the library has to be. */
extern const uint32_t TG_FI_VERSION;

enum tg_fi_loaded {
	TG_FI_LOADED, /* every function below may be called */
	TG_FI_ABSENT, /* the library cannot be loaded; `why` says how the loader put it */
	TG_FI_OTHER_VERSION, /* `version` is what was found */
};

/*
 * Load the library. To be called until it has answered TG_FI_LOADED before anything else here, by one
 * thread at a time. The text in `why` ends with a zero.
 */
enum tg_fi_loaded tg_fi_load(char *why, size_t room, uint32_t *version);

/* The library's own functions with these names. */
int tg_fi_getinfo(const char *node, uint64_t flags, const struct fi_info *hints, struct fi_info **info);
void tg_fi_freeinfo(struct fi_info *info);
struct fi_info *tg_fi_allocinfo(void);
/* strdup(): for texts in an fi_info, which the library frees. */
char *tg_fi_strdup(const char *text);
const char *tg_fi_strerror(int number);
int tg_fi_fabric(struct fi_fabric_attr *attr, struct fid_fabric **fabric);

/* Results are 0 (or a count) and negative FI_E… numbers, as of the functions with these names. */

/* Every object is closed through the fid at its beginning, once, after all that was opened on it. */
int tg_fi_close_fabric(struct fid_fabric *fabric);
int tg_fi_close_domain(struct fid_domain *domain);
int tg_fi_close_ep(struct fid_ep *ep);
int tg_fi_close_av(struct fid_av *av);
int tg_fi_close_cq(struct fid_cq *cq);
int tg_fi_close_mr(struct fid_mr *mr);

int tg_fi_domain(struct fid_fabric *fabric, struct fi_info *info, struct fid_domain **domain);

/* Not enabled yet. Signal handlers that the provider installs are taken out again. */
int tg_fi_endpoint(struct fid_domain *domain, struct fi_info *info, struct fid_ep **ep);
int tg_fi_bind_cq(struct fid_ep *ep, struct fid_cq *cq, uint64_t flags);
int tg_fi_bind_av(struct fid_ep *ep, struct fid_av *av);
int tg_fi_enable(struct fid_ep *ep);
/* `*len` is the room in `address`, and then what it takes: more than there was with -FI_ETOOSMALL. */
int tg_fi_getname(struct fid_ep *ep, void *address, size_t *len);

int tg_fi_av_open(struct fid_domain *domain, struct fi_av_attr *attr, struct fid_av **av);
/* One address, of the provider's format. 1 when it was taken. */
int tg_fi_av_insert(struct fid_av *av, const void *address, fi_addr_t *peer);

int tg_fi_cq_open(struct fid_domain *domain, struct fi_cq_attr *attr, struct fid_cq **cq);
/* The queue has FI_CQ_FORMAT_DATA; `entries` has room for `n`. */
ssize_t tg_fi_cq_read(struct fid_cq *cq, struct fi_cq_data_entry *entries, size_t n);
ssize_t tg_fi_cq_readerr(struct fid_cq *cq, struct fi_cq_err_entry *error);
/* The text is copied into `text` and ends with a zero. */
void tg_fi_cq_strerror(struct fid_cq *cq, const struct fi_cq_err_entry *error, char *text, size_t room);

int tg_fi_mr_reg(struct fid_domain *domain, const void *memory, size_t len, uint64_t access,
		 uint64_t requested_key, struct fid_mr **mr);
void *tg_fi_mr_desc(struct fid_mr *mr);
uint64_t tg_fi_mr_key(struct fid_mr *mr);

/* `data` arrives in the peer's completion queue behind the bytes. */
ssize_t tg_fi_writedata(struct fid_ep *ep, const void *memory, size_t len, void *desc, uint64_t data,
			fi_addr_t peer, uint64_t remote_address, uint64_t key, void *context);

/* A message into one of the buffers that the peer has posted. */
ssize_t tg_fi_send(struct fid_ep *ep, const void *memory, size_t len, void *desc, fi_addr_t peer, void *context);
/* Post a buffer for a message of any peer. */
ssize_t tg_fi_recv(struct fid_ep *ep, void *memory, size_t len, void *desc, void *context);

#endif
