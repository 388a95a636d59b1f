/* pipelines/recipe_schema.h - private: the table behind recipe.h.
 * By it values go into the struct and out of it.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_RECIPE_SCHEMA_H
#define TROUPE_PIPELINES_RECIPE_SCHEMA_H

#include "pipelines/recipe.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tr__field_type {
    TR__TEXT,    /* char * */
    TR__INTEGER, /* int32_t */
    TR__SEED,    /* uint64_t, below 2^63 so that JSON can say it */
    TR__REAL,    /* double */
    TR__FLAG,    /* bool */
    TR__CHOICE,  /* an enum: the index among the choices */
    TR__PAIR,    /* double[2] */
    TR__REALS,   /* tr_recipe_numbers */
    TR__STAGES   /* tr_recipe_stage_list */
} tr__field_type;

/* Which recipes a key has a meaning in.
 * Given in any other it is refused, and it is not written there either. */
typedef enum tr__field_use {
    TR__ALWAYS,
    TR__WITH_SIZES,       /* a model given by sizes */
    TR__WITH_LLAMA_SIZES, /* ... of the llama family */
    TR__WITH_TEXT,        /* data.text */
    TR__WITH_TOKENS,      /* data.tokens */
    TR__WITH_SCHEDULE,    /* no lr.values */
    TR__WITH_ETCD         /* head.etcd */
} tr__field_use;

typedef struct tr__recipe_field {
    const char *key;            /* dotted */
    size_t offset;              /* in tr_recipe */
    const char *fallback;       /* the default as YAML; NULL: none, or found by recipe_check.c */
    const char *fallback_words; /* what the help says instead, where the default is not a constant */
    const char *const *choices; /* of TR__CHOICE, ends with NULL */
    const char *help;
    double low, high; /* of numbers; high may be INFINITY */
    tr__field_type type;
    tr__field_use use;
    bool low_open, high_open; /* the bound itself is outside */
} tr__recipe_field;

enum { TR__RECIPE_FIELDS = 91 };
extern const char *const tr__recipe_devices[]; /* by tr_recipe_device, ends with NULL */
extern const tr__recipe_field tr__recipe_fields[TR__RECIPE_FIELDS];

int tr__recipe_field_index(const char *key); /* -1 for an unknown key */
bool tr__recipe_is_section(const char *key); /* "train" */
bool tr__recipe_field_applies(const tr_recipe *recipe, int field);
void tr__recipe_clear_field(tr_recipe *recipe, int field);          /* to zero, freeing what it owned */
bool tr__recipe_field_is_empty(const tr_recipe *recipe, int field); /* NULL, no items, NaN */

/* What the field would accept, for remedies: "a whole number from 1 up". */
void tr__recipe_expectation(int field, char buffer[160]);

/* The value as YAML flow text, which is JSON too. NULL when there is no memory; tr_free it. */
char *tr__recipe_value_text(const tr_recipe *recipe, int field);

/* A recipe while it is read: where each value came from. */
typedef struct tr__recipe_reading {
    const char *name; /* the file's, for messages */
    tr_recipe recipe;
    int lines[TR__RECIPE_FIELDS];    /* from 1; 0: not given; TR__COMMAND_LINE */
    int sections[TR__RECIPE_FIELDS]; /* of the section that a field belongs to, in the file; 0: not there */
} tr__recipe_reading;
enum { TR__COMMAND_LINE = -1 };

/* "recipe.yaml:12: train.steps '0' <message>", TR_EINVAL.
 * value NULL: the field's present one; "" leaves it out. */
tr_status tr__recipe_refuse(const tr__recipe_reading *self, int line, const char *key, const char *value,
                            tr_error *err, const char *format, ...) TR_PRINTF(6, 7);

/* Sets a field from YAML text, as if it stood at `line`. */
tr_status tr__recipe_set(tr__recipe_reading *self, int field, const char *yaml, int line, tr_error *err);

/* Whether a stage runs on a GPU, or does where there is one. */
bool tr__recipe_asks_for_gpus(const tr_recipe *recipe);

/* recipe_chaos.c: what is wrong with the section `chaos`. */
tr_status tr__recipe_check_chaos(const tr__recipe_reading *self, tr_error *err);

/* Fills in defaults and refuses what does not go together. */
tr_status tr__recipe_resolve(tr__recipe_reading *self, tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
