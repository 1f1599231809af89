// SPDX-License-Identifier: GPL-2.0-or-later
/* Nodes lie in one array; instances in another, those of a node chained through it, free ones chained as
 * well. Names of traits, taints, GPU models, domains and groups become small numbers. A group counts its
 * members per node in a small hash table and per domain in an array. `changes` is a ring of the nodes that
 * changed, so that those who keep something per node (views.c) need not look at all of them. */
#include "engine/nodes.h"

#include <errno.h>
#include <string.h>

#include "engine/nodes-internal.h"

static const char *const level_names[] = { "node", "rack", "zone" };

const char *node_level_name(enum node_level level) {
    return level_names[level];
}

/* Makes room for one more element: doubles, and grows by a quarter once it is large. */
static int grow(void *array_pointer, size_t element, size_t count, size_t *room) {
    void **array = array_pointer;
    size_t wanted = *room == 0 ? 16 : *room < 1024 ? *room * 2 : *room + *room / 4;

    if (count < *room)
        return 0;
    void *larger = reallocarray(*array, wanted, element);
    if (!larger)
        return -ENOMEM;
    memset((char *) larger + *room * element, 0, (wanted - *room) * element);
    *array = larger;
    *room = wanted;
    return 0;
}

static int grow_u32(void *array_pointer, size_t element, size_t count, uint32_t *room) {
    size_t wide = *room;
    int r = grow(array_pointer, element, count, &wide);

    *room = (uint32_t) wide;
    return r;
}

int nodes_new(struct nodes **ret) {
    _cleanup_nodes_ struct nodes *nodes = calloc(1, sizeof(*nodes));
    int r;

    if (!nodes)
        return -ENOMEM;
    nodes->slot_free = NODE_NONE;
    r = map_new(&nodes->by_name);
    for (int i = 0; i < NAMES_COUNT && r >= 0; i++)
        r = map_new(&nodes->names[i].numbers);
    if (r < 0)
        return r;
    *ret = STEAL_PTR(nodes);
    return 0;
}

void nodes_free(struct nodes *nodes) {
    if (!nodes)
        return;
    for (size_t i = 0; i < nodes->count; i++)
        free(nodes->texts[i]);
    for (int i = 0; i < NAMES_COUNT; i++) {
        map_free(nodes->names[i].numbers);
        for (unsigned j = 0; j < nodes->names[i].count; j++)
            free(nodes->names[i].texts[j]);
        free(nodes->names[i].texts);
    }
    for (unsigned i = 0; i < nodes->group_room; i++) {
        free(nodes->groups[i].nodes);
        free(nodes->groups[i].domains);
    }
    map_free(nodes->by_name);
    free(nodes->nodes);
    free(nodes->texts);
    free(nodes->slots);
    free(nodes->domain_levels);
    free(nodes->groups);
    free(nodes->changes);
    free(nodes->past);
    free(nodes);
}

/* ---- names ---- */

static const unsigned names_most[NAMES_COUNT] = { TRAITS_MAX, TAINTS_MAX, GPU_MODELS_MAX, UINT16_MAX,
                                                  1000000 };

int nodes_number(struct nodes *nodes, enum node_names which, const char *name, bool add) {
    struct names *names = &nodes->names[which];
    void *found = map_get(names->numbers, name);
    size_t room = names->room;
    int r;

    if (found)
        return (int) (uintptr_t) found - 1;
    if (!add)
        return -ENOENT;
    /* Number 0 of the domains means "none", of the models "no GPU". */
    if (names->count == 0 && (which == NAMES_DOMAINS || which == NAMES_MODELS) && *name) {
        r = nodes_number(nodes, which, "", true);
        if (r < 0)
            return r;
        room = names->room;
    }
    if (names->count >= names_most[which])
        return -ENOSPC;
    r = grow(&names->texts, sizeof(*names->texts), names->count, &room);
    names->room = (unsigned) room;
    if (r < 0)
        return r;
    char *text = strdup(name);
    if (!text)
        return -ENOMEM;
    r = map_put(names->numbers, text, (void *) (uintptr_t) (names->count + 1));
    if (r < 0) {
        free(text);
        return r;
    }
    names->texts[names->count] = text;
    if (which == NAMES_GROUPS) {
        room = nodes->group_room;
        r = grow(&nodes->groups, sizeof(*nodes->groups), names->count, &room);
        nodes->group_room = (unsigned) room;
    }
    names->count++;
    return r < 0 ? r : (int) names->count - 1;
}

const char *nodes_number_name(const struct nodes *nodes, enum node_names which, unsigned number) {
    return number < nodes->names[which].count ? nodes->names[which].texts[number] : NULL;
}

/* ---- nodes ---- */

static int number_domain(struct nodes *nodes, enum node_level level, const char *name, uint16_t *ret) {
    char text[300];
    unsigned before = nodes->names[NAMES_DOMAINS].count;
    int r;

    if (!name || !*name)
        return 0;
    snprintf(text, sizeof(text), "%s %.256s", level_names[level], name);
    r = nodes_number(nodes, NAMES_DOMAINS, text, true);
    if (r < 0)
        return r;
    if (before != nodes->names[NAMES_DOMAINS].count) {
        uint8_t *levels = realloc(nodes->domain_levels, nodes->names[NAMES_DOMAINS].count);
        if (!levels)
            return -ENOMEM;
        nodes->domain_levels = levels;
        levels[0] = 0;
        levels[r] = (uint8_t) level;
    }
    *ret = (uint16_t) r;
    return 0;
}

static int number_ratios(struct nodes *nodes, const struct node_description *description, uint8_t *ret) {
    struct ratios ratios;

    for (int kind = 0; kind < KIND_COUNT; kind++) {
        ratios.cpu[kind] = description->overcommit_cpu ? description->overcommit_cpu[kind] : 100;
        ratios.memory[kind] = description->overcommit_memory ? description->overcommit_memory[kind] : 100;
        if (ratios.cpu[kind] == 0 || ratios.memory[kind] == 0)
            return -EINVAL;
    }
    for (unsigned i = 0; i < nodes->ratio_count; i++)
        if (memcmp(&nodes->ratios[i], &ratios, sizeof(ratios)) == 0) {
            *ret = (uint8_t) i;
            return 0;
        }
    if (nodes->ratio_count == RATIOS_MAX)
        return -ENOSPC;
    nodes->ratios[nodes->ratio_count] = ratios;
    *ret = (uint8_t) nodes->ratio_count++;
    return 0;
}

static int number_sets(struct nodes *nodes, const struct node_description *description, struct node *node) {
    int r;

    for (char *const *trait = description->traits; trait && *trait; trait++) {
        r = nodes_number(nodes, NAMES_TRAITS, *trait, true);
        if (r < 0)
            return r;
        node->traits[r / 64] |= UINT64_C(1) << (r % 64);
    }
    for (char *const *taint = description->taints; taint && *taint; taint++) {
        r = nodes_number(nodes, NAMES_TAINTS, *taint, true);
        if (r < 0)
            return r;
        node->taints |= UINT64_C(1) << r;
    }
    if (description->gpus > 0) {
        r = nodes_number(nodes, NAMES_MODELS, description->gpu_model ? description->gpu_model : "unknown",
                         true);
        if (r < 0)
            return r;
        node->gpu_model = (uint8_t) r;
    }
    r = number_domain(nodes, LEVEL_RACK, description->rack, &node->domains[LEVEL_RACK]);
    if (r >= 0)
        r = number_domain(nodes, LEVEL_ZONE, description->zone, &node->domains[LEVEL_ZONE]);
    if (r >= 0)
        r = number_ratios(nodes, description, &node->ratios);
    return r;
}

static int reserve_node(struct nodes *nodes) {
    size_t room = nodes->room;
    int r;

    r = grow(&nodes->texts, sizeof(*nodes->texts), nodes->count, &room);
    if (r < 0)
        return r;
    r = grow(&nodes->nodes, sizeof(*nodes->nodes), nodes->count, &nodes->room);
    if (r < 0 || nodes->change_room >= nodes->room)
        return r;
    size_t change_room = nodes->change_room ? nodes->change_room : 16;
    while (change_room < nodes->room)
        change_room *= 2;
    /* Positions into the smaller ring mean nothing in the larger: readers start again. */
    uint32_t *changes = reallocarray(nodes->changes, change_room, sizeof(*changes));
    if (!changes)
        return -ENOMEM;
    nodes->changes = changes;
    nodes->change_room = change_room;
    nodes->position += nodes->change_room + 1;
    return 0;
}

static void note_change(struct nodes *nodes, uint32_t node, uint32_t slot, const struct node_share *share, bool given) {
    if (nodes->past)
        nodes->past[nodes->position & (nodes->past_room - 1)] = (struct nodes_event){
            .cpus = share->cpus, .memory = share->memory, .until = share->until, .node = node, .slot = slot,
            .group = share->group, .gpus = share->gpus, .gpu_milli = share->gpu_milli & 0x7FFF, .given = given,
        };
    nodes->changes[nodes->position++ & (nodes->change_room - 1)] = node;
}

static int node_init(struct nodes *nodes, const struct node_description *description, struct node *node,
                     struct error *error) {
    int r;

    *node = (struct node){ .cpus = description->cpus,
                           .free_cpus = description->cpus,
                           .memory = description->memory,
                           .free_memory = description->memory,
                           .gpus = (uint8_t) description->gpus,
                           .gpu_free_total = (uint16_t) (description->gpus * GPU_WHOLE),
                           .first = NODE_NONE };
    for (unsigned i = 0; i < description->gpus; i++)
        node->gpu_free[i] = GPU_WHOLE;
    r = number_sets(nodes, description, node);
    if (r == -ENOSPC)
        return error_set(error, ERROR_EXHAUSTED,
                         "numbers for the names of traits, taints, models or domains");
    if (r == -EINVAL)
        return error_set(error, ERROR_BAD_VALUE, "overcommit", "0", "a ratio is at least 1 percent");
    return r < 0 ? error_errno(error, r, "adding node %s", description->name) : 0;
}

int nodes_add(struct nodes *nodes, const struct node_description *description, struct error *error) {
    struct node node;
    int r;

    if (map_get(nodes->by_name, description->name))
        return error_set(error, ERROR_EXISTS, "node", description->name);
    if (description->gpus > NODE_GPUS)
        return error_set(error, ERROR_OUT_OF_RANGE, "gpus", "0", "16", "more");
    if (nodes->count >= NODES_MAX)
        return error_set(error, ERROR_EXHAUSTED, "place for nodes");
    r = node_init(nodes, description, &node, error);
    if (r < 0)
        return r;
    r = reserve_node(nodes);
    if (r < 0)
        return error_errno(error, r, "adding node %s", description->name);
    _cleanup_free_ char *name = strdup(description->name);
    r = name ? map_put(nodes->by_name, name, (void *) (uintptr_t) (nodes->count + 1)) : -ENOMEM;
    if (r < 0)
        return error_errno(error, r, "adding node %s", description->name);
    nodes->texts[nodes->count] = STEAL_PTR(name);
    nodes->nodes[nodes->count] = node;
    nodes->scale.cpus = node.cpus > nodes->scale.cpus ? node.cpus : nodes->scale.cpus;
    nodes->scale.memory = node.memory > nodes->scale.memory ? node.memory : nodes->scale.memory;
    nodes->scale.gpus = node.gpus > nodes->scale.gpus ? node.gpus : nodes->scale.gpus;
    nodes->model_free[node.gpu_model] += node.gpu_free_total;
    nodes->position += nodes->change_room + 1; /* those who look again see one more */
    nodes->past_from = nodes->position;
    nodes->count++;
    return 0;
}

size_t nodes_count(const struct nodes *nodes) {
    return nodes->count;
}

const struct node *nodes_get(const struct nodes *nodes, uint32_t node) {
    return &nodes->nodes[node];
}

const char *nodes_name(const struct nodes *nodes, uint32_t node) {
    return node < nodes->count ? nodes->texts[node] : NULL;
}

uint32_t nodes_find(const struct nodes *nodes, const char *name) {
    void *found = map_get(nodes->by_name, name);

    return found ? (uint32_t) (uintptr_t) found - 1 : NODE_NONE;
}

void nodes_close(struct nodes *nodes, uint32_t node, bool closed) {
    struct node *changed = &nodes->nodes[node];

    if (changed->closed == closed)
        return;
    changed->closed = closed;
    nodes->model_free[changed->gpu_model] += closed ? -(uint64_t) changed->gpu_free_total
                                                    : changed->gpu_free_total;
    note_change(nodes, node, NODE_NONE, &(struct node_share){ 0 }, false);
}

uint64_t nodes_model_free(const struct nodes *nodes, unsigned model) {
    return nodes->model_free[model];
}

size_t nodes_memory(const struct nodes *nodes) {
    if (nodes->count == 0)
        return 0;
    return sizeof(struct node) + sizeof(char *) +
           nodes->change_room * sizeof(*nodes->changes) / nodes->count;
}

void nodes_scale(const struct nodes *nodes, struct nodes_scale *ret) {
    *ret = nodes->scale;
    ret->cpus = ret->cpus ? ret->cpus : 1;
    ret->memory = ret->memory ? ret->memory : 1;
}

uint32_t nodes_ratio_cpu(const struct nodes *nodes, const struct node *node, enum kind kind) {
    return nodes->ratios[node->ratios].cpu[kind];
}

uint32_t nodes_ratio_memory(const struct nodes *nodes, const struct node *node, enum kind kind) {
    return nodes->ratios[node->ratios].memory[kind];
}

/* ---- groups ---- */

/* Where the node's tally is, or would be; there is room. */
static struct tally *group_slot(const struct group *group, uint32_t node) {
    uint32_t at = (uint32_t) ((uint64_t) node * UINT64_C(0x9E3779B97F4A7C15) >> 32);

    for (at &= group->room - 1; group->nodes[at].node != NODE_NONE; at = (at + 1) & (group->room - 1))
        if (group->nodes[at].node == node)
            break;
    return &group->nodes[at];
}

static struct tally *group_find(const struct group *group, uint32_t node) {
    return group->room > 0 ? group_slot(group, node) : NULL;
}

static int group_grow(struct group *group) {
    struct group larger = { .room = group->room ? group->room * 2 : 8 };

    if (group->used * 2 < group->room)
        return 0;
    larger.nodes = malloc(larger.room * sizeof(*larger.nodes));
    if (!larger.nodes)
        return -ENOMEM;
    for (uint32_t i = 0; i < larger.room; i++)
        larger.nodes[i] = (struct tally){ .node = NODE_NONE };
    for (uint32_t i = 0; i < group->room; i++)
        if (group->nodes[i].node != NODE_NONE && group->nodes[i].count > 0) {
            *group_slot(&larger, group->nodes[i].node) = group->nodes[i];
            larger.used++;
        }
    free(group->nodes);
    group->nodes = larger.nodes;
    group->room = larger.room;
    group->used = larger.used;
    return 0;
}

static int group_reserve(const struct nodes *nodes, struct group *group) {
    unsigned wanted = nodes->names[NAMES_DOMAINS].count;
    int r = group_grow(group);

    if (r < 0 || wanted <= group->domain_room)
        return r;
    uint32_t *domains = reallocarray(group->domains, wanted, sizeof(*domains));
    if (!domains)
        return -ENOMEM;
    memset(domains + group->domain_room, 0, (wanted - group->domain_room) * sizeof(*domains));
    group->domains = domains;
    group->domain_room = wanted;
    return 0;
}

/* `add` is 1 or -1; room was reserved. */
static void group_count(struct nodes *nodes, int32_t number, uint32_t node, int add) {
    struct group *group = &nodes->groups[number];
    struct tally *tally = group_slot(group, node);

    if (tally->node == NODE_NONE) {
        *tally = (struct tally){ .node = node };
        group->used++;
    }
    tally->count += (uint32_t) add;
    group->members += (uint32_t) add;
    for (int level = LEVEL_RACK; level < LEVEL_COUNT; level++)
        if (nodes->nodes[node].domains[level])
            group->domains[nodes->nodes[node].domains[level]] += (uint32_t) add;
}

uint32_t nodes_group_near(const struct nodes *nodes, unsigned number, enum node_level level, uint32_t node) {
    const struct group *group = &nodes->groups[number];

    if (level == LEVEL_NODE) {
        const struct tally *tally = group_find(group, node);
        return tally && tally->node == node ? tally->count : 0;
    }
    unsigned domain = nodes->nodes[node].domains[level];
    return domain && domain < group->domain_room ? group->domains[domain] : 0;
}

uint32_t nodes_group_size(const struct nodes *nodes, unsigned group) {
    return nodes->groups[group].members;
}

uint32_t nodes_group_fewest(const struct nodes *nodes, unsigned number, enum node_level level) {
    const struct group *group = &nodes->groups[number];
    uint32_t fewest = UINT32_MAX;

    if (level == LEVEL_NODE) {
        if (group->members < nodes->count)
            return 0; /* some node has none; a closed one counts too, it may open again */
        for (uint32_t i = 0; i < nodes->count; i++) {
            uint32_t near = nodes_group_near(nodes, number, level, i);
            fewest = near < fewest ? near : fewest;
        }
        return fewest;
    }
    for (unsigned i = 1; i < nodes->names[NAMES_DOMAINS].count; i++) {
        uint32_t members = i < group->domain_room ? group->domains[i] : 0;
        if (nodes->domain_levels[i] == level && members < fewest)
            fewest = members;
    }
    return fewest == UINT32_MAX ? 0 : fewest;
}

/* ---- promises ---- */

static unsigned gpu_use(const struct node_share *share) {
    return share->gpu_milli < GPU_WHOLE ? 0 : (unsigned) __builtin_popcount(share->gpus);
}

static bool share_fits(const struct node *node, const struct node_share *share) {
    if (share->cpus > node->free_cpus || share->memory > node->free_memory)
        return false;
    for (unsigned i = 0; i < NODE_GPUS; i++)
        if ((share->gpus >> i & 1) && node->gpu_free[i] < share->gpu_milli)
            return false;
    return true;
}

static void gpus_take(struct nodes *nodes, struct node *node, const struct node_share *share, bool give) {
    uint8_t *uses = &node->gpu_uses[gpu_use(share)];
    uint16_t before = node->gpu_free_total;

    if (share->gpus == 0 || share->gpu_milli == 0)
        return;
    *uses = (uint8_t) (*uses + (give ? (*uses > 0 ? -1 : 0) : (*uses < UINT8_MAX ? 1 : 0)));
    for (unsigned i = 0; i < NODE_GPUS; i++) {
        if (!(share->gpus >> i & 1))
            continue;
        int change = give ? share->gpu_milli : -(int) share->gpu_milli;
        node->gpu_free[i] = (uint16_t) (node->gpu_free[i] + change);
        node->gpu_free_total = (uint16_t) (node->gpu_free_total + change);
    }
    if (!node->closed)
        nodes->model_free[node->gpu_model] += (uint64_t) node->gpu_free_total - before;
}

int nodes_take(struct nodes *nodes, uint32_t index, const struct node_share *share, uint32_t *ret_slot) {
    struct node *node = &nodes->nodes[index];
    uint32_t slot = nodes->slot_free;
    int r = 0;

    if (!share_fits(node, share))
        return -ENOSPC;
    if (slot == NODE_NONE)
        r = grow_u32(&nodes->slots, sizeof(*nodes->slots), nodes->slot_count, &nodes->slot_room);
    if (r >= 0 && share->group >= 0)
        r = group_reserve(nodes, &nodes->groups[share->group]);
    if (r < 0)
        return r;
    if (slot == NODE_NONE)
        slot = nodes->slot_count++;
    else
        nodes->slot_free = nodes->slots[slot].next;
    nodes->slots[slot] =
        (struct slot){ .share = *share, .node = index, .next = node->first, .previous = NODE_NONE };
    if (node->first != NODE_NONE)
        nodes->slots[node->first].previous = slot;
    node->first = slot;
    node->instances++;
    node->free_cpus -= share->cpus;
    node->free_memory -= share->memory;
    gpus_take(nodes, node, share, false);
    if (share->until > node->busy_until)
        node->busy_until = share->until;
    if (share->group >= 0)
        group_count(nodes, share->group, index, 1);
    note_change(nodes, index, slot, share, false);
    *ret_slot = slot;
    return 0;
}

/* The latest end of those who stay, when the one that ended last goes. */
static void busy_again(struct nodes *nodes, struct node *node) {
    node->busy_until = 0;
    for (uint32_t at = node->first; at != NODE_NONE; at = nodes->slots[at].next)
        if (nodes->slots[at].share.until > node->busy_until)
            node->busy_until = nodes->slots[at].share.until;
}

void nodes_expect(struct nodes *nodes, uint32_t slot_number, uint64_t until) {
    struct slot *slot = &nodes->slots[slot_number];
    struct node *node = &nodes->nodes[slot->node];
    uint64_t before = slot->share.until;

    slot->share.until = until;
    if (until >= node->busy_until)
        node->busy_until = until;
    else if (before == node->busy_until)
        busy_again(nodes, node);
}

void nodes_give(struct nodes *nodes, uint32_t slot_number) {
    struct slot *slot = &nodes->slots[slot_number];
    uint32_t index = slot->node;
    struct node *node = &nodes->nodes[index];

    if (slot->previous == NODE_NONE)
        node->first = slot->next;
    else
        nodes->slots[slot->previous].next = slot->next;
    if (slot->next != NODE_NONE)
        nodes->slots[slot->next].previous = slot->previous;
    node->instances--;
    node->free_cpus += slot->share.cpus;
    node->free_memory += slot->share.memory;
    gpus_take(nodes, node, &slot->share, true);
    if (slot->share.until && slot->share.until == node->busy_until)
        busy_again(nodes, node);
    if (slot->share.group >= 0)
        group_count(nodes, slot->share.group, index, -1);
    note_change(nodes, index, slot_number, &slot->share, true);
    *slot = (struct slot){ .node = NODE_NONE, .next = nodes->slot_free };
    nodes->slot_free = slot_number;
}

uint32_t nodes_next(const struct nodes *nodes, uint32_t node, uint32_t slot) {
    return slot == NODE_NONE ? nodes->nodes[node].first : nodes->slots[slot].next;
}

const struct node_share *nodes_share(const struct nodes *nodes, uint32_t slot) {
    return &nodes->slots[slot].share;
}

uint32_t nodes_holder(const struct nodes *nodes, uint32_t slot) {
    return nodes->slots[slot].node;
}

uint64_t nodes_position(const struct nodes *nodes) {
    return nodes->position;
}

uint32_t nodes_changed(const struct nodes *nodes, uint64_t position) {
    if (position >= nodes->position || nodes->position - position > nodes->change_room)
        return NODE_NONE;
    return nodes->changes[position & (nodes->change_room - 1)];
}
