/* examples/wordcount.c - counts words with actors: nothing here is about training.
 *
 *                 lines            counts
 *     reader  ===========> counter 1 ==========> collector
 *    (head)   ===========> counter 2 ==========>  (head)
 *
 * The reader sends blocks of text wherever a credit is free, so a slow counter gets less and none is flooded.
 * An empty block says that the text is over; a counter then sends its table, in pieces and under credits too,
 * and an empty one behind it. The collector merges the tables, prints the ten most frequent words and
 * finishes the job.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/memory.h"
#include "runtime/activity.h"
#include "runtime/job.h"
#include "words.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK_BYTES = 1 << 16, LINES_SLOTS = 4, COUNTS_SLOTS = 2, N_PRINTED = 10, MAX_COUNTERS = 64 };

static const char usage[] = "usage: wordcount [--processes] [--transport ucx|zmq] [--counters N] FILE\n"
                            "Prints the ten most frequent words of a text.\n"
                            "  --processes   counters are processes of their own, not threads\n"
                            "  --transport   what joins the processes: ucx or zmq (zmq)\n"
                            "  --counters N  how many counters there are, 1 to 64 (2)\n";

/* ---- reader ---- */

typedef struct reader {
    FILE *file;
    uint32_t n_counters, next; /* its outgoing edges are 0 .. n_counters - 1, as the plan below makes them */
    uint32_t n_told;           /* how many know that the text is over */
    size_t n_rest;             /* the beginning of a word that goes into the next block */
    char rest[BLOCK_BYTES];
} reader;

static tr_status reader_init(tr_actor *self, void *context, const void *config, size_t config_bytes,
                             void **state, tr_error *err)
{
    (void)context;
    (void)config_bytes;
    const char *path = config;
    reader *made = tr_alloc_zero(1, sizeof *made);
    if (!made) return tr_fail(err, TR_ENOMEM, "no memory for a reader");
    made->file = fopen(path, "rb");
    if (!made->file) {
        tr_free(made);
        return tr_fail(err, TR_ENOTFOUND, "cannot read '%s': %s", path, strerror(errno));
    }
    made->n_counters = (uint32_t)tr_actor_topology(self)->n_edges / 2;
    *state = made;
    return TR_OK;
}

/* Fills a block up to the end of its last whole word. 0: the text is over. */
static size_t read_block(reader *self, char *block)
{
    memcpy(block, self->rest, self->n_rest);
    size_t n = self->n_rest + fread(block + self->n_rest, 1, BLOCK_BYTES - self->n_rest, self->file),
           whole = n;
    self->n_rest = 0;
    if (n < BLOCK_BYTES) return n; /* the file's end is a word's end */
    while (whole > 0 && is_word_byte((unsigned char)block[whole - 1])) whole--;
    if (whole == 0) return n; /* one word as long as a block is cut */
    self->n_rest = n - whole;
    memcpy(self->rest, block + whole, self->n_rest);
    return whole;
}

static bool reader_idle(tr_actor *self, void *state)
{
    reader *reading = state;
    uint32_t edge = reading->next, tried = 0;
    while (tried < reading->n_counters && tr_edge_credits(self, edge) == 0) {
        edge = (edge + 1) % reading->n_counters;
        tried++;
    }
    if (tried == reading->n_counters || reading->n_told == reading->n_counters) return false;
    tr_error err;
    tr_buffer *block = NULL;
    if (tr_buffer_new(&block, BLOCK_BYTES, &err) != TR_OK) {
        tr_actor_fail(self, &err);
        return false;
    }
    /* The end is told to each counter once, in their order, whatever their
     * credits: it must reach all of them. */
    size_t n = reading->n_told ? 0 : read_block(reading, block->data);
    if (n == 0) {
        tr_buffer_release(&block);
        edge = reading->n_told;
        if (tr_edge_credits(self, edge) == 0) return false;
        reading->n_told++;
    }
    tr_actor_activity(self, "sending lines", TR_ACTIVITY_NONE, TR_ACTIVITY_NONE);
    tr_edge_send(self, edge, block, (uint32_t)n, 0, 0, 0);
    reading->next = (edge + 1) % reading->n_counters;
    return true;
}

static void reader_receive(tr_actor *self, void *state, tr_message **message)
{
    (void)self;
    (void)state;
    (void)message;
}

static void reader_stop(tr_actor *self, void *state)
{
    (void)self;
    fclose(((reader *)state)->file);
    tr_free(state);
}

/* ---- counter ---- */

typedef struct counter {
    word_table words;
    uint32_t out;
    bool over, told; /* the text is over; and so is the table */
    size_t sent;     /* places of the table that are sent */
} counter;

static tr_status counter_init(tr_actor *self, void *context, const void *config, size_t config_bytes,
                              void **state, tr_error *err)
{
    (void)context;
    (void)config;
    (void)config_bytes;
    counter *made = tr_alloc_zero(1, sizeof *made);
    if (!made) return tr_fail(err, TR_ENOMEM, "no memory for a counter");
    made->out = tr_edge_out(self, "counts", 0);
    *state = made;
    return TR_OK;
}

static void counter_receive(tr_actor *self, void *state, tr_message **message)
{
    counter *counting = state;
    tr_error err;
    if ((*message)->frame.kind != TR_FRAME_DATA) return;
    size_t n = (*message)->frame.body_bytes;
    tr_actor_activity(self, "counting", TR_ACTIVITY_NONE, TR_ACTIVITY_NONE);
    counting->over = counting->over || n == 0;
    if (word_table_add_text(&counting->words, tr_message_bytes(*message), n, &err) != TR_OK)
        tr_actor_fail(self, &err);
    tr_edge_release(self, message);
}

/* Lines of "count word" for as many words as fit. */
static size_t write_counts(counter *self, char *block)
{
    size_t n = 0;
    for (; self->sent < self->words.n_places; self->sent++) {
        const word_count *place = &self->words.places[self->sent];
        if (!place->word) continue;
        size_t room = BLOCK_BYTES - n;
        int length = snprintf(block + n, room, "%llu %s\n", (unsigned long long)place->count, place->word);
        if (length < 0 || (size_t)length >= room) break;
        n += (size_t)length;
    }
    return n;
}

static bool counter_idle(tr_actor *self, void *state)
{
    counter *counting = state;
    tr_error err;
    tr_buffer *block = NULL;
    if (!counting->over || counting->told || tr_edge_credits(self, counting->out) == 0) return false;
    if (tr_buffer_new(&block, BLOCK_BYTES, &err) != TR_OK) {
        tr_actor_fail(self, &err);
        return false;
    }
    size_t n = write_counts(counting, block->data);
    counting->told = n == 0;
    tr_edge_send(self, counting->out, block, (uint32_t)n, 0, 0, 0);
    return true;
}

static void counter_stop(tr_actor *self, void *state)
{
    (void)self;
    word_table_release(&((counter *)state)->words);
    tr_free(state);
}

/* ---- collector ---- */

typedef struct collector {
    word_table words;
    size_t n_counters;
} collector;

static tr_status collector_init(tr_actor *self, void *context, const void *config, size_t config_bytes,
                                void **state, tr_error *err)
{
    (void)context;
    (void)config;
    (void)config_bytes;
    collector *made = tr_alloc_zero(1, sizeof *made);
    if (!made) return tr_fail(err, TR_ENOMEM, "no memory for a collector");
    made->n_counters = tr_actor_topology(self)->n_edges / 2;
    *state = made;
    return TR_OK;
}

static tr_status merge(collector *self, const char *lines, size_t length, tr_error *err)
{
    tr_status status = TR_OK;
    for (const char *end = lines + length; lines < end && status == TR_OK;) {
        char *word;
        uint64_t count = strtoull(lines, &word, 10);
        const char *newline = memchr(word, '\n', (size_t)(end - word));
        word++;
        status = word_table_add(&self->words, word, (size_t)(newline - word), count, err);
        lines = newline + 1;
    }
    return status;
}

static void print(const word_table *words)
{
    word_count *sorted = word_table_sorted(words);
    for (size_t i = 0; sorted && i < words->n_words && i < N_PRINTED; i++)
        printf("%8llu %s\n", (unsigned long long)sorted[i].count, sorted[i].word);
    fflush(stdout);
    tr_free(sorted);
}

static void collector_receive(tr_actor *self, void *state, tr_message **message)
{
    collector *collecting = state;
    tr_error err;
    if ((*message)->frame.kind != TR_FRAME_DATA) return;
    size_t n = (*message)->frame.body_bytes;
    if (merge(collecting, tr_message_bytes(*message), n, &err) != TR_OK) tr_actor_fail(self, &err);
    tr_edge_release(self, message);
    if (n > 0 || --collecting->n_counters > 0) return;
    print(&collecting->words);
    tr_actor_finish_job(self);
}

static void collector_stop(tr_actor *self, void *state)
{
    (void)self;
    word_table_release(&((collector *)state)->words);
    tr_free(state);
}

/* ---- the job ---- */

static const tr_behavior reader_behavior = {.name = "reader",
                                            .init = reader_init,
                                            .receive = reader_receive,
                                            .idle = reader_idle,
                                            .stop = reader_stop};
static const tr_behavior counter_behavior = {.name = "counter",
                                             .init = counter_init,
                                             .receive = counter_receive,
                                             .idle = counter_idle,
                                             .stop = counter_stop};
static const tr_behavior collector_behavior = {
    .name = "collector", .init = collector_init, .receive = collector_receive, .stop = collector_stop};
static const tr_actor_kind kinds[] = {{"reader", &reader_behavior, NULL},
                                      {"counter", &counter_behavior, NULL},
                                      {"collector", &collector_behavior, NULL}};
static const tr_registry registry = {kinds, sizeof kinds / sizeof *kinds};

static tr_status plan(tr_topology *topology, const char *path, int n_counters, tr_error *err)
{
    tr_actor_id reading = 0, collecting = 0, counting[MAX_COUNTERS];
    tr_topology_init(topology, 1 + n_counters);
    tr_status status = tr_topology_add_actor(topology, "reader", "reader", TR_NODE_HEAD, path,
                                             strlen(path) + 1, 0, &reading, err);
    if (status == TR_OK)
        status = tr_topology_add_actor(topology, "collector", "collector", TR_NODE_HEAD, NULL, 0, 0,
                                       &collecting, err);
    for (int i = 0; i < n_counters && status == TR_OK; i++) {
        char name[TR_NAME_BYTES];
        snprintf(name, sizeof name, "counter %d", i + 1);
        status = tr_topology_add_actor(topology, name, "counter", i + 1, NULL, 0, 0, &counting[i], err);
    }
    for (int i = 0; i < n_counters && status == TR_OK; i++)
        status = tr_topology_add_edge(topology, "lines", reading, counting[i], LINES_SLOTS, BLOCK_BYTES, NULL,
                                      err);
    for (int i = 0; i < n_counters && status == TR_OK; i++)
        status = tr_topology_add_edge(topology, "counts", counting[i], collecting, COUNTS_SLOTS, BLOCK_BYTES,
                                      NULL, err);
    return status;
}

typedef struct arguments {
    const char *path, *transport;
    int n_counters;
    bool processes, help;
} arguments;

static bool parse(int argc, char **argv, arguments *out)
{
    *out = (arguments){.n_counters = 2};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0)
            out->help = true;
        else if (strcmp(argv[i], "--processes") == 0)
            out->processes = true;
        else if (strcmp(argv[i], "--transport") == 0 && i + 1 < argc)
            out->transport = argv[++i];
        else if (strcmp(argv[i], "--counters") == 0 && i + 1 < argc)
            out->n_counters = atoi(argv[++i]);
        else if (argv[i][0] == '-' || out->path)
            return false;
        else
            out->path = argv[i];
    }
    if (!out->transport) out->transport = out->processes ? "zmq" : "inproc";
    return out->help || (out->path && out->n_counters >= 1 && out->n_counters <= MAX_COUNTERS);
}

int main(int argc, char **argv)
{
    if (tr_job_is_child(argc, argv)) return tr_job_child_main(argc, argv, &registry);
    arguments given;
    if (!parse(argc, argv, &given)) {
        fputs(usage, stderr);
        return 2;
    }
    if (given.help) {
        fputs(usage, stdout);
        return 0;
    }
    tr_error err = {0};
    tr_topology topology;
    tr_status status = plan(&topology, given.path, given.n_counters, &err);
    const tr_job_options options = {.topology = &topology,
                                    .registry = &registry,
                                    .processes = given.processes,
                                    .transport = given.transport};
    if (status == TR_OK) status = tr_job_run(&options, &err);
    tr_topology_release(&topology);
    if (status == TR_OK) return 0;
    fprintf(stderr, "wordcount: %s\n", err.message);
    return status == TR_EINVAL || status == TR_ENOTFOUND ? 2 : 1;
}
