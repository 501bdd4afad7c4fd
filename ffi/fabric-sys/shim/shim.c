#include "shim.h"

#include <stdio.h>

int tg_fi_close_fabric(struct fid_fabric *fabric)
{
	return fi_close(&fabric->fid);
}

int tg_fi_close_domain(struct fid_domain *domain)
{
	return fi_close(&domain->fid);
}

int tg_fi_close_ep(struct fid_ep *ep)
{
	return fi_close(&ep->fid);
}

int tg_fi_close_av(struct fid_av *av)
{
	return fi_close(&av->fid);
}

int tg_fi_close_cq(struct fid_cq *cq)
{
	return fi_close(&cq->fid);
}

int tg_fi_close_mr(struct fid_mr *mr)
{
	return fi_close(&mr->fid);
}

int tg_fi_domain(struct fid_fabric *fabric, struct fi_info *info, struct fid_domain **domain)
{
	return fi_domain(fabric, info, domain, NULL);
}

int tg_fi_bind_cq(struct fid_ep *ep, struct fid_cq *cq, uint64_t flags)
{
	return fi_ep_bind(ep, &cq->fid, flags);
}

int tg_fi_enable(struct fid_ep *ep)
{
	return fi_enable(ep);
}

int tg_fi_bind_av(struct fid_ep *ep, struct fid_av *av)
{
	return fi_ep_bind(ep, &av->fid, 0);
}

int tg_fi_getname(struct fid_ep *ep, void *address, size_t *len)
{
	return fi_getname(&ep->fid, address, len);
}

int tg_fi_av_open(struct fid_domain *domain, struct fi_av_attr *attr, struct fid_av **av)
{
	return fi_av_open(domain, attr, av, NULL);
}

int tg_fi_av_insert(struct fid_av *av, const void *address, fi_addr_t *peer)
{
	return fi_av_insert(av, address, 1, peer, 0, NULL);
}

int tg_fi_cq_open(struct fid_domain *domain, struct fi_cq_attr *attr, struct fid_cq **cq)
{
	return fi_cq_open(domain, attr, cq, NULL);
}

ssize_t tg_fi_cq_read(struct fid_cq *cq, struct fi_cq_data_entry *entries, size_t n)
{
	return fi_cq_read(cq, entries, n);
}

ssize_t tg_fi_cq_readerr(struct fid_cq *cq, struct fi_cq_err_entry *error)
{
	return fi_cq_readerr(cq, error, 0);
}

void tg_fi_cq_strerror(struct fid_cq *cq, const struct fi_cq_err_entry *error, char *text, size_t room)
{
	const char *said = fi_cq_strerror(cq, error->prov_errno, error->err_data, text, room);

	/* Some providers fill the buffer, others answer with text of their own. */
	if (said && said != text)
		snprintf(text, room, "%s", said);
	else if (!said && room)
		text[0] = '\0';
}

int tg_fi_mr_reg(struct fid_domain *domain, const void *memory, size_t len, uint64_t access,
		 uint64_t requested_key, struct fid_mr **mr)
{
	return fi_mr_reg(domain, memory, len, access, 0, requested_key, 0, mr, NULL);
}

void *tg_fi_mr_desc(struct fid_mr *mr)
{
	return fi_mr_desc(mr);
}

uint64_t tg_fi_mr_key(struct fid_mr *mr)
{
	return fi_mr_key(mr);
}

ssize_t tg_fi_writedata(struct fid_ep *ep, const void *memory, size_t len, void *desc, uint64_t data,
			fi_addr_t peer, uint64_t remote_address, uint64_t key, void *context)
{
	return fi_writedata(ep, memory, len, desc, data, peer, remote_address, key, context);
}

ssize_t tg_fi_send(struct fid_ep *ep, const void *memory, size_t len, void *desc, fi_addr_t peer, void *context)
{
	return fi_send(ep, memory, len, desc, peer, context);
}

ssize_t tg_fi_recv(struct fid_ep *ep, void *memory, size_t len, void *desc, void *context)
{
	return fi_recv(ep, memory, len, desc, FI_ADDR_UNSPEC, context);
}
