/* replay.c - main for tests/fuzz/NAME.c when no fuzzer drives it. Such a file defines LLVMFuzzerTestOneInput; this
 * replays the committed corpus, tests/fuzz/corpus/NAME/, and each input's prefixes, in memory of exactly the input's
 * size so that ASan sees one byte too many. For fuzzing: clang -fsanitize=fuzzer,address,undefined FILE. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_one(const uint8_t *data, size_t size)
{
    uint8_t *copy = (uint8_t *)malloc(size ? size : 1);
    if (!copy) return -1;
    if (size) memcpy(copy, data, size);
    (void)LLVMFuzzerTestOneInput(copy, size);
    free(copy);
    return 0;
}

static int replay_file(const char *path)
{
    static uint8_t data[1 << 20];
    size_t size, cut, step;
    FILE *f = fopen(path, "rb");
    if (!f) return -1;
    size = fread(data, 1, sizeof data, f);
    fclose(f);
    step = size / 64 + 1; /* at most 64 prefixes of each input */
    for (cut = 0; cut < size; cut += step)
        if (replay_one(data, cut)) return -1;
    return replay_one(data, size);
}

int main(int argc, char **argv)
{
    int passed = 0, failed = 0;
    char folder[512], path[1024];
    const char *name = strrchr(argv[0], '/');
    struct dirent *d;
    DIR *dir;
    name = name ? name + 1 : argv[0];
    if (argc > 1) snprintf(folder, sizeof folder, "%s", argv[1]);
    else snprintf(folder, sizeof folder, "tests/fuzz/corpus/%s", name);
    dir = opendir(folder);
    if (!dir) printf("FAIL %s: no folder %s\n", name, folder);
    else {
        while ((d = readdir(dir)) != NULL) {
            if (d->d_name[0] == '.') continue;
            if (snprintf(path, sizeof path, "%s/%s", folder, d->d_name) >= (int)sizeof path || replay_file(path)) {
                failed++;
                printf("FAIL %s: cannot be read\n", d->d_name);
            } else passed++;
        }
        closedir(dir);
    }
    if (!passed) failed++;
    printf("%d passed, %d failed\n", passed, failed);
    return failed ? 1 : 0;
}
