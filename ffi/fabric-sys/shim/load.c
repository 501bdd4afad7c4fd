/*
 * Loading libfabric when it is wanted, not when the program starts. Debian's library pulls in one library for
 * each kind of network hardware, and the constructor of one of them (libinfinipath) installs handlers
 * for SIGTERM, SIGINT, SIGSEGV and others that print and exit. A daemon that only has the library linked would
 * lose its orderly end. So it is loaded here, and handlers that came with it are taken out again. A host without
 * the library runs, too, and says that it has none.
 */
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "shim.h"

const uint32_t TG_FI_VERSION = FI_VERSION(FI_MAJOR_VERSION, FI_MINOR_VERSION);

static struct {
	__typeof__(&fi_getinfo) getinfo;
	__typeof__(&fi_freeinfo) freeinfo;
	__typeof__(&fi_dupinfo) dupinfo;
	__typeof__(&fi_strerror) strerror;
	__typeof__(&fi_fabric) fabric;
	__typeof__(&fi_version) version;
} lib;

struct handlers {
	struct sigaction of[NSIG];
};

static void keep_handlers(struct handlers *kept)
{
	for (int number = 1; number < NSIG; number++)
		sigaction(number, NULL, &kept->of[number]);
}

/* What this program itself installs in the meantime, on another thread, stays. */
static void restore_handlers(const struct handlers *kept)
{
	Dl_info own, other;
	struct sigaction now;

	if (!dladdr((void *)restore_handlers, &own))
		return;
	for (int number = 1; number < NSIG; number++) {
		if (sigaction(number, NULL, &now) || now.sa_sigaction == kept->of[number].sa_sigaction)
			continue;
		if (!dladdr((void *)now.sa_sigaction, &other) || other.dli_fbase == own.dli_fbase)
			continue;
		sigaction(number, &kept->of[number], NULL);
	}
}

static int look_up(void *library)
{
	lib.getinfo = (__typeof__(lib.getinfo))dlsym(library, "fi_getinfo");
	lib.freeinfo = (__typeof__(lib.freeinfo))dlsym(library, "fi_freeinfo");
	lib.dupinfo = (__typeof__(lib.dupinfo))dlsym(library, "fi_dupinfo");
	lib.strerror = (__typeof__(lib.strerror))dlsym(library, "fi_strerror");
	lib.fabric = (__typeof__(lib.fabric))dlsym(library, "fi_fabric");
	lib.version = (__typeof__(lib.version))dlsym(library, "fi_version");
	return lib.getinfo && lib.freeinfo && lib.dupinfo && lib.strerror && lib.fabric && lib.version;
}

static enum tg_fi_loaded load(char *why, size_t room, uint32_t *version)
{
	void *library = dlopen("libfabric.so.1", RTLD_NOW | RTLD_LOCAL);
	struct fi_info *info = NULL;

	if (!library || !look_up(library)) {
		const char *said = dlerror();

		snprintf(why, room, "%s", said ? said : "libfabric.so.1 lacks a function");
		return TG_FI_ABSENT;
	}
	/* Looked up without their symbols' versions, the functions fit these headers' structures only. */
	*version = lib.version();
	if (*version != TG_FI_VERSION)
		return TG_FI_OTHER_VERSION;
	/* The first question is what makes providers start, with handlers of their own. */
	if (!lib.getinfo(TG_FI_VERSION, NULL, NULL, FI_PROV_ATTR_ONLY, NULL, &info))
		lib.freeinfo(info);
	return TG_FI_LOADED;
}

enum tg_fi_loaded tg_fi_load(char *why, size_t room, uint32_t *version)
{
	struct handlers kept;
	enum tg_fi_loaded loaded;

	keep_handlers(&kept);
	loaded = load(why, room, version);
	restore_handlers(&kept);
	return loaded;
}

/* `shm` installs handlers with each endpoint, to unlink its queues when the process is killed. */
int tg_fi_endpoint(struct fid_domain *domain, struct fi_info *info, struct fid_ep **ep)
{
	struct handlers kept;
	int answer;

	keep_handlers(&kept);
	answer = fi_endpoint(domain, info, ep, NULL);
	restore_handlers(&kept);
	return answer;
}

int tg_fi_getinfo(const char *node, uint64_t flags, const struct fi_info *hints, struct fi_info **info)
{
	return lib.getinfo(TG_FI_VERSION, node, NULL, flags, hints, info);
}

void tg_fi_freeinfo(struct fi_info *info)
{
	lib.freeinfo(info);
}

struct fi_info *tg_fi_allocinfo(void)
{
	return lib.dupinfo(NULL);
}

char *tg_fi_strdup(const char *text)
{
	return strdup(text);
}

const char *tg_fi_strerror(int number)
{
	return lib.strerror(number);
}

int tg_fi_fabric(struct fi_fabric_attr *attr, struct fid_fabric **fabric)
{
	return lib.fabric(attr, fabric, NULL);
}
