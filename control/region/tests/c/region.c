/* Formats a region in the file it is given, changes fields, appends to a log; refuses what it must. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tidegate_region.h"

#define SIZE 16384
#define CHECK(condition)                                                                                               \
	do {                                                                                                           \
		if (!(condition)) {                                                                                    \
			fprintf(stderr, "line %d: %s\n", __LINE__, #condition);                                        \
			return 1;                                                                                      \
		}                                                                                                      \
	} while (0)

/* The header is one page: a wrong size does not compile. */
typedef char header_is_a_page[sizeof(struct tidegate_region_header) == TIDEGATE_REGION_HEADER_BYTES ? 1 : -1];

int main(int argc, char **argv)
{
	struct tidegate_region_range ranges[] = {
		{4096, 64, TIDEGATE_REGION_SUM, 8, 0},	  {4160, 4, TIDEGATE_REGION_MAX, 4, 0},
		{4164, 2, TIDEGATE_REGION_MIN, 2, 0},	  {4166, 1, TIDEGATE_REGION_OR, 1, 0},
		{4200, 5, TIDEGATE_REGION_SOURCE_WINS, 1, 0}, {4205, 5, TIDEGATE_REGION_DESTINATION_WINS, 1, 0},
		{4210, 5, TIDEGATE_REGION_ABORT, 1, 0},	  {8192, 32, TIDEGATE_REGION_APPEND_LOG, 4, 0},
	};
	uint32_t count = sizeof(ranges) / sizeof(ranges[0]);
	int file = argc == 2 ? open(argv[1], O_RDWR) : -1;
	char *memory;

	CHECK(file >= 0);
	memory = (char *)mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	CHECK(memory != MAP_FAILED);

	CHECK(tidegate_region_find(memory, SIZE, 3) == TIDEGATE_REGION_NOT_FORMATTED);
	CHECK(tidegate_region_format(memory, SIZE, 0, 7, ranges, count) == TIDEGATE_REGION_INVALID);
	CHECK(tidegate_region_format(memory, 8200, 3, 7, ranges, count) == TIDEGATE_REGION_INVALID);
	ranges[1].offset = 4159;
	CHECK(tidegate_region_format(memory, SIZE, 3, 7, ranges, count) == TIDEGATE_REGION_INVALID);
	ranges[1].offset = 4160;
	CHECK(tidegate_region_format(memory, SIZE, 3, 7, ranges, count) == TIDEGATE_REGION_OK);
	CHECK(tidegate_region_find(memory, SIZE, 3) == TIDEGATE_REGION_OK);
	CHECK(tidegate_region_find(memory, SIZE, 4) == TIDEGATE_REGION_OTHER_VERSION);
	CHECK(tidegate_region_find(memory, SIZE / 2, 3) == TIDEGATE_REGION_INVALID);

	((uint64_t *)tidegate_region_field(memory, 0))[1] = 77;
	CHECK(tidegate_region_field(memory, count) == NULL);
	CHECK(tidegate_region_append(memory, 7, "firstone", 8) == TIDEGATE_REGION_OK);
	CHECK(tidegate_region_append(memory, 7, "two.", 4) == TIDEGATE_REGION_OK);
	CHECK(tidegate_region_append(memory, 7, "odd", 3) == TIDEGATE_REGION_INVALID);
	CHECK(tidegate_region_append(memory, 0, "nolog...", 8) == TIDEGATE_REGION_INVALID);
	CHECK(tidegate_region_append(memory, 7, "longer than what is left", 16) == TIDEGATE_REGION_FULL);
	CHECK(munmap(memory, SIZE) == 0 && close(file) == 0);
	return 0;
}
