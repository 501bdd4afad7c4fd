/*
 * tidegate_region.h: a region of guest memory that carries a service's state, for programs in C (C99, one header).
 *
 * The layout is the one of the Rust crate tidegate-region, whose head has the tables; README.md beside it says how a
 * service adopts it. Everything is little-endian; this header is for little-endian machines.
 *
 * Copyright: Tidegate's authors. SPDX-License-Identifier: Apache-2.0
 */
#ifndef TIDEGATE_REGION_H
#define TIDEGATE_REGION_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "tidegate_region.h is for little-endian machines"
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define TIDEGATE_REGION_MAGIC "TGREGION"
#define TIDEGATE_REGION_VERSION 2u
#define TIDEGATE_REGION_HEADER_BYTES 4096u
#define TIDEGATE_REGION_MAX_RANGES 64u
#define TIDEGATE_REGION_LOG_HEAD_BYTES 8u

/* How a value is merged that both sides have changed since T0. */
enum tidegate_region_merge {
	TIDEGATE_REGION_SUM = 1,
	TIDEGATE_REGION_MAX = 2,
	TIDEGATE_REGION_MIN = 3,
	TIDEGATE_REGION_OR = 4,
	TIDEGATE_REGION_SOURCE_WINS = 5,
	TIDEGATE_REGION_DESTINATION_WINS = 6,
	TIDEGATE_REGION_ABORT = 7,
	TIDEGATE_REGION_APPEND_LOG = 8
};

/* A range of the region, as it lies in the header. */
struct tidegate_region_range {
	uint64_t offset;     /* from the start of the region */
	uint64_t len_bytes;
	uint32_t merge_type; /* enum tidegate_region_merge */
	uint32_t width;      /* bytes of one value; of a log, what every record's length is a multiple of */
	uint64_t zero;
};

/* The first bytes of a region. */
struct tidegate_region_header {
	char magic[8];
	uint32_t version;
	uint32_t range_count;
	uint64_t size_bytes;
	uint64_t generation;
	uint32_t schema_version;
	uint8_t zero[28];
	struct tidegate_region_range ranges[TIDEGATE_REGION_MAX_RANGES];
	uint8_t rest[TIDEGATE_REGION_HEADER_BYTES - 64 - TIDEGATE_REGION_MAX_RANGES * 32];
};

/* What the functions answer; 0 is good. */
enum tidegate_region_error {
	TIDEGATE_REGION_OK = 0,
	TIDEGATE_REGION_NOT_FORMATTED = -1, /* the magic is not there */
	TIDEGATE_REGION_OTHER_VERSION = -2, /* a layout version or a schema version that is not yours */
	TIDEGATE_REGION_INVALID = -3,       /* sizes, ranges or a log's length that cannot be */
	TIDEGATE_REGION_FULL = -4           /* the record does not fit the log any more */
};

/* Everything written before is in memory before what is written after: the guest may be stopped at any instruction. */
static inline void tidegate_region_barrier(void)
{
	__atomic_thread_fence(__ATOMIC_RELEASE);
}

/* Whether one range can be, in a region of size_bytes, behind one that ends at previous_end. */
static inline int tidegate_region_range_is_valid(const struct tidegate_region_range *range, uint64_t size_bytes,
						 uint64_t previous_end)
{
	uint64_t unit = range->width;
	int is_log = range->merge_type == TIDEGATE_REGION_APPEND_LOG;

	switch (range->merge_type) {
	case TIDEGATE_REGION_SUM:
	case TIDEGATE_REGION_MAX:
	case TIDEGATE_REGION_MIN:
	case TIDEGATE_REGION_OR:
	case TIDEGATE_REGION_APPEND_LOG:
		if (range->width != 1 && range->width != 2 && range->width != 4 && range->width != 8)
			return 0;
		break;
	case TIDEGATE_REGION_SOURCE_WINS:
	case TIDEGATE_REGION_DESTINATION_WINS:
	case TIDEGATE_REGION_ABORT:
		if (range->width != 1)
			return 0;
		break;
	default:
		return 0;
	}
	if (is_log)
		unit = TIDEGATE_REGION_LOG_HEAD_BYTES;
	if (range->zero != 0 || range->len_bytes == 0 || range->offset % unit != 0 || range->len_bytes % unit != 0)
		return 0;
	if (is_log && range->len_bytes == TIDEGATE_REGION_LOG_HEAD_BYTES)
		return 0;
	return range->offset >= TIDEGATE_REGION_HEADER_BYTES && range->offset >= previous_end &&
	       range->offset <= size_bytes && range->len_bytes <= size_bytes - range->offset;
}

static inline int tidegate_region_ranges_are_valid(const struct tidegate_region_range *ranges, uint32_t count,
						   uint64_t size_bytes)
{
	uint64_t end = 0;
	uint32_t index;

	if (count == 0 || count > TIDEGATE_REGION_MAX_RANGES)
		return 0;
	for (index = 0; index < count; index++) {
		if (!tidegate_region_range_is_valid(&ranges[index], size_bytes, end))
			return 0;
		end = ranges[index].offset + ranges[index].len_bytes;
	}
	return 1;
}

/*
 * Look at a region of size_bytes, mapped at memory, that an earlier run of the service may have formatted.
 * TIDEGATE_REGION_OK: it is this service's, go on with what is there.
 */
static inline int tidegate_region_find(const void *memory, uint64_t size_bytes, uint32_t schema_version)
{
	const struct tidegate_region_header *header = (const struct tidegate_region_header *)memory;

	if (size_bytes < TIDEGATE_REGION_HEADER_BYTES)
		return TIDEGATE_REGION_INVALID;
	if (memcmp(header->magic, TIDEGATE_REGION_MAGIC, 8) != 0)
		return TIDEGATE_REGION_NOT_FORMATTED;
	if (header->version != TIDEGATE_REGION_VERSION || header->schema_version != schema_version)
		return TIDEGATE_REGION_OTHER_VERSION;
	if (header->size_bytes != size_bytes ||
	    !tidegate_region_ranges_are_valid(header->ranges, header->range_count, size_bytes))
		return TIDEGATE_REGION_INVALID;
	return TIDEGATE_REGION_OK;
}

/*
 * Format a region: zero all data, then write the header, then the magic. schema_version, not zero, is the number of what
 * the service keeps in it; generation is another one each time it begins anew. Ranges ascend and do not overlap.
 */
static inline int tidegate_region_format(void *memory, uint64_t size_bytes, uint32_t schema_version,
					 uint64_t generation, const struct tidegate_region_range *ranges,
					 uint32_t range_count)
{
	struct tidegate_region_header *header = (struct tidegate_region_header *)memory;

	if (size_bytes < TIDEGATE_REGION_HEADER_BYTES || schema_version == 0 ||
	    !tidegate_region_ranges_are_valid(ranges, range_count, size_bytes))
		return TIDEGATE_REGION_INVALID;
	memset(header->magic, 0, sizeof(header->magic));
	tidegate_region_barrier();
	memset((char *)memory + sizeof(header->magic), 0, (size_t)size_bytes - sizeof(header->magic));
	header->version = TIDEGATE_REGION_VERSION;
	header->range_count = range_count;
	header->size_bytes = size_bytes;
	header->generation = generation;
	header->schema_version = schema_version;
	memcpy(header->ranges, ranges, range_count * sizeof(*ranges));
	tidegate_region_barrier();
	memcpy(header->magic, TIDEGATE_REGION_MAGIC, sizeof(header->magic));
	return TIDEGATE_REGION_OK;
}

/* The bytes of the range number index, or NULL when there is none. Their values are the service's, as in any memory. */
static inline void *tidegate_region_field(void *memory, uint32_t index)
{
	const struct tidegate_region_header *header = (const struct tidegate_region_header *)memory;

	return index < header->range_count ? (char *)memory + header->ranges[index].offset : NULL;
}

/* Append a record to the log that is range number index. One thread at a time. */
static inline int tidegate_region_append(void *memory, uint32_t index, const void *record, uint64_t record_bytes)
{
	const struct tidegate_region_header *header = (const struct tidegate_region_header *)memory;
	char *log = (char *)tidegate_region_field(memory, index);
	uint64_t used, capacity;

	if (log == NULL || header->ranges[index].merge_type != TIDEGATE_REGION_APPEND_LOG)
		return TIDEGATE_REGION_INVALID;
	capacity = header->ranges[index].len_bytes - TIDEGATE_REGION_LOG_HEAD_BYTES;
	memcpy(&used, log, sizeof(used));
	if (used > capacity || used % header->ranges[index].width != 0)
		return TIDEGATE_REGION_INVALID;
	if (record_bytes == 0 || record_bytes % header->ranges[index].width != 0)
		return TIDEGATE_REGION_INVALID;
	if (record_bytes > capacity - used)
		return TIDEGATE_REGION_FULL;
	memcpy(log + TIDEGATE_REGION_LOG_HEAD_BYTES + used, record, (size_t)record_bytes);
	/* The record before the length that makes it count; the length in one store. */
	tidegate_region_barrier();
	__atomic_store_n((uint64_t *)(void *)log, used + record_bytes, __ATOMIC_RELEASE);
	return TIDEGATE_REGION_OK;
}

#ifdef __cplusplus
}
#endif

#endif
