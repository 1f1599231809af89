// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/policy.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "base/text.h"
#include "engine/fixed.h"

/* Scores are computed in seconds. F1 to F4: Carastan-Santos and de Camargo, "Obtaining dynamic scheduling policies with
 * simulation and machine learning", SC'17; WFP3 and UNICEP: Tang et al., IPDPS'10. */

static double seconds(const struct policy_input *input, int64_t time) {
    return (double) time / (double) input->second;
}

static double waited(const struct policy_input *input) {
    return input->now > input->submitted ? seconds(input, input->now - input->submitted) : 0;
}

static double estimated(const struct policy_input *input) {
    return seconds(input, input->estimate);
}

static double size_of(const struct policy_input *input) {
    return input->size;
}

/* The larger of its shares of the two resources. */
static double dominant_share(const struct policy_input *input) {
    double cpus = input->capacity.cpus ? (double) input->demand.cpus / (double) input->capacity.cpus : 0;
    double memory = input->capacity.memory ? (double) input->demand.memory / (double) input->capacity.memory : 0;

    return cpus > memory ? cpus : memory;
}

static double log_of_submission(const struct policy_input *input) {
    double submitted = seconds(input, input->submitted);

    return fixed_log10(submitted > 0 ? submitted : 0.1);
}

static double score_fcfs(const struct policy_parameters *parameters, const struct policy_input *input) {
    return seconds(input, input->submitted);
}

static double score_sjf(const struct policy_parameters *parameters, const struct policy_input *input) {
    return estimated(input);
}

static double score_demand(const struct policy_parameters *parameters, const struct policy_input *input) {
    return dominant_share(input);
}

static double score_saf(const struct policy_parameters *parameters, const struct policy_input *input) {
    return estimated(input) * size_of(input);
}

static double score_srtf(const struct policy_parameters *parameters, const struct policy_input *input) {
    int64_t left = input->estimate - input->done;

    return seconds(input, left > 0 ? left : 0);
}

static double score_rr(const struct policy_parameters *parameters, const struct policy_input *input) {
    return input->tag;
}

static double score_priority(const struct policy_parameters *parameters, const struct policy_input *input) {
    return -(double) input->priority;
}

/* W_i = W_i + T_i; priority = base + ageing * wait - fairness * use; beyond the alarm by time of arrival alone. */
static double score_dynamic(const struct policy_parameters *parameters, const struct policy_input *input) {
    double wait = waited(input);

    if (wait >= parameters->alarm)
        return -1e12 + seconds(input, input->submitted);
    if (parameters->step > 0)
        wait = (double) (int64_t) (wait / parameters->step) * parameters->step;
    return -((double) input->priority + parameters->ageing * wait - parameters->fairness * input->usage);
}

static size_t terms_dynamic(const struct policy_parameters *parameters, const struct policy_input *input,
                            struct policy_term *ret) {
    double wait = waited(input);

    if (parameters->step > 0)
        wait = (double) (int64_t) (wait / parameters->step) * parameters->step;
    ret[0] = (struct policy_term){ "priority", (double) input->priority };
    ret[1] = (struct policy_term){ "wait", wait };
    ret[2] = (struct policy_term){ "ageing", parameters->ageing };
    ret[3] = (struct policy_term){ "usage", input->usage };
    ret[4] = (struct policy_term){ "fairness", parameters->fairness };
    ret[5] = (struct policy_term){ "alarm", parameters->alarm };
    return 6;
}

static double score_wfp3(const struct policy_parameters *parameters, const struct policy_input *input) {
    double ratio = waited(input) / estimated(input);

    return -(ratio * ratio * ratio * size_of(input));
}

/* For one processor (or a part of one) the logarithm is 0 and the score without bound: it counts as next to nothing, so that
 * those of one processor come first, by wait / time. */
static double score_unicep(const struct policy_parameters *parameters, const struct policy_input *input) {
    double size = size_of(input), logarithm = size > 1 ? fixed_log2(size) : 0;

    return -(waited(input) / ((logarithm > 0 ? logarithm : 1e-9) * estimated(input)));
}

static double score_f1(const struct policy_parameters *parameters, const struct policy_input *input) {
    return fixed_log10(estimated(input)) * size_of(input) + 870 * log_of_submission(input);
}

static double score_f2(const struct policy_parameters *parameters, const struct policy_input *input) {
    return fixed_square_root(estimated(input)) * size_of(input) + 25600 * log_of_submission(input);
}

static double score_f3(const struct policy_parameters *parameters, const struct policy_input *input) {
    return estimated(input) * size_of(input) + 6860000 * log_of_submission(input);
}

static double score_f4(const struct policy_parameters *parameters, const struct policy_input *input) {
    return estimated(input) * fixed_square_root(size_of(input)) + 530000 * log_of_submission(input);
}

static double score_xf(const struct policy_parameters *parameters, const struct policy_input *input) {
    return -((waited(input) + estimated(input)) / estimated(input));
}

static double urgency_of(const struct policy_input *input) {
    double time = estimated(input);

    return input->urgency > 0 ? input->urgency : 1 / (time > 10 ? time : 10);
}

/* What a second of waiting of this one weighs: the expected growth of its slowdown to a power, by what it would occupy. */
static double constant_polder(const struct policy_parameters *parameters, const struct policy_input *input) {
    return fixed_power(urgency_of(input), parameters->urgency_power) /
           (fixed_power(estimated(input) + parameters->floor, parameters->time_power) *
            fixed_power(size_of(input), parameters->size_power));
}

/* Ours: the wait by that weight; beyond the alarm by time of arrival alone. The alarm is as long as a queue in the order of
 * arrival may have made somebody wait: a multiple of the longest drain seen. */
static double alarm_of(const struct policy_parameters *parameters, const struct policy_input *input) {
    double drain = parameters->drain * seconds(input, input->drain);

    return drain > parameters->alarm ? drain : parameters->alarm;
}

static double score_polder(const struct policy_parameters *parameters, const struct policy_input *input) {
    double wait = waited(input);

    if (wait >= alarm_of(parameters, input))
        return -1e200 * (wait + 1);
    return -((wait + parameters->patience) * input->constant);
}

static size_t terms_polder(const struct policy_parameters *parameters, const struct policy_input *input,
                           struct policy_term *ret) {
    const struct policy_term terms[] = {
        { "wait", waited(input) },
        { "patience", parameters->patience },
        { "urgency", urgency_of(input) },
        { "urgency_power", parameters->urgency_power },
        { "time", estimated(input) },
        { "floor", parameters->floor },
        { "time_power", parameters->time_power },
        { "size", size_of(input) },
        { "size_power", parameters->size_power },
        { "weight", input->constant },
        { "alarm", alarm_of(parameters, input) },
    };

    memcpy(ret, terms, sizeof(terms));
    return ELEMENTS(terms);
}

const struct policy policies[] = {
    { "polder", "ours: a weighted slowdown, and nobody starves", score_polder, .constant = constant_polder, .changes = true,
      .alarms = true, .sees_room = true, .terms = terms_polder,
      .formula = "-(wait + patience) x weight, weight = urgency^urgency_power / ((time + floor)^time_power x size^size_power); "
                 "whoever waited beyond alarm goes first, in the order of arrival" },
    { "fcfs", "first come, first served", score_fcfs },
    { "sjf", "shortest expected run time first", score_sjf },
    { "sjf:demand", "smallest share of the node first", score_demand },
    { "saf", "smallest area (run time x processors) first", score_saf },
    { "srtf", "shortest remaining time first, preemptive", score_srtf, .preempts = true },
    { "rr", "round robin by virtual finish tags, preemptive", score_rr, .preempts = true, .by_arrival = true },
    { "priority", "highest priority first", score_priority },
    { "priority:preemptive", "highest priority first, preemptive", score_priority, .preempts = true },
    { "dynamic", "priority that grows with waiting and shrinks with use", score_dynamic, .changes = true,
      .alarms = true, .preempts_on_alarm = true, .uses_account = true, .terms = terms_dynamic,
      .formula = "-(priority + ageing x wait - fairness x usage); whoever waited beyond alarm goes first, in the order of arrival" },
    { "wfp3", "(wait / time)^3 x processors", score_wfp3, .changes = true },
    { "unicep", "wait / (log2(processors) x time)", score_unicep, .changes = true },
    { "f1", "log10(time) x processors + 870 log10(submission)", score_f1 },
    { "f2", "sqrt(time) x processors + 25600 log10(submission)", score_f2 },
    { "f3", "time x processors + 6.86e6 log10(submission)", score_f3 },
    { "f4", "time x sqrt(processors) + 5.3e5 log10(submission)", score_f4 },
    { "xf", "(wait + time) / time, also called HRRN", score_xf, .changes = true },
    { NULL },
};

#define PARAMETER(word, field, value, minimum, maximum, meaning)                                             \
    { word, offsetof(struct policy_parameters, field), value, minimum, maximum, meaning }
const struct policy_parameter_row policy_parameter_rows[] = {
    PARAMETER("rr.quantum", quantum, 10, 1e-6, 1e9, "seconds of a burst"),
    PARAMETER("rr.weight", weight, 1, 1e-6, 1e6, "weight of what has none of its own"),
    PARAMETER("dynamic.ageing", ageing, 0.01, 1e-9, 1e6, "priority gained per second of waiting"),
    PARAMETER("dynamic.step", step, 0, 0, 1e9, "seconds by which waiting is counted; 0: it grows all the time"),
    PARAMETER("dynamic.fairness", fairness, 0.001, 0, 1e6, "priority lost per second of the whole node used lately"),
    PARAMETER("dynamic.decay", decay, 86400, 1, 1e9, "seconds in which past use halves"),
    PARAMETER("alarm", alarm, 225000, 1, 1e12, "seconds of waiting after which it goes first"),
    PARAMETER("polder.drain", drain, 1, 0, 1e6, "times the longest drain of the queue before the alarm may ring"),
    PARAMETER("polder.patience", patience, 20000, 0, 1e12, "seconds added to what was waited"),
    PARAMETER("polder.time", time_power, 1.1, 0, 8, "power of the expected run time"),
    PARAMETER("polder.size", size_power, 0, -8, 8, "power of the size"),
    PARAMETER("polder.urgency", urgency_power, 0.425, 0, 8, "power of the expected growth of its slowdown"),
    PARAMETER("polder.floor", floor, 1100, 0, 1e9, "seconds added to the expected run time"),
    PARAMETER("polder.blocking", blocking, 1.2, 0, 1e6, "seconds of run time that a second of keeping everybody waiting counts for"),
    PARAMETER("yield.worth", yield_worth, 4, 0, 1e6,
              "times of what giving way takes that one worked before it is asked to: moving takes at most 1 / (1 + this) of the time"),
    PARAMETER("yield.prior", yield_prior, 10, 0, 1e6, "seconds that a GiB takes to disk and back, before any was measured"),
    { NULL },
};

static double *value_of(struct policy_parameters *parameters, const struct policy_parameter_row *row) {
    return (double *) ((char *) parameters + row->offset);
}

void policy_parameters_init(struct policy_parameters *parameters) {
    for (const struct policy_parameter_row *row = policy_parameter_rows; row->name; row++)
        *value_of(parameters, row) = row->value;
}

static int refuse_range(const struct policy_parameter_row *row, const char *text, struct error *error) {
    char minimum[32], maximum[32];

    snprintf(minimum, sizeof(minimum), "%g", row->minimum);
    snprintf(maximum, sizeof(maximum), "%g", row->maximum);
    return error_set(error, ERROR_OUT_OF_RANGE, row->name, minimum, maximum, text);
}

int policy_parameters_set(struct policy_parameters *parameters, const char *name, const char *text,
                          struct error *error) {
    const struct policy_parameter_row *row = policy_parameter_rows;
    char *end;
    double value;

    while (row->name && !text_equal(row->name, name))
        row++;
    if (!row->name)
        return error_set(error, ERROR_NOT_FOUND, "policy parameter", name);
    value = strtod(text, &end);
    if (end == text || *end != '\0')
        return error_set(error, ERROR_BAD_VALUE, name, text, "it is not a number");
    if (!isfinite(value))
        return error_set(error, ERROR_BAD_VALUE, name, text, "it must be a finite number");
    if (value == 0 && row->minimum > 0)
        return error_set(error, ERROR_BAD_VALUE, name, text, "it must be above zero");
    if (value < row->minimum || value > row->maximum)
        return refuse_range(row, text, error);
    *value_of(parameters, row) = value;
    return 0;
}

int policy_parameters_check(const struct policy_parameters *parameters, struct error *error) {
    if (parameters->time_power == 0 && parameters->size_power == 0 && parameters->urgency_power == 0)
        return error_set(error, ERROR_BAD_VALUE, "polder.time", "0",
                         "with polder.size and polder.urgency 0 as well nothing but the waiting would count: use fcfs");
    return 0;
}

int policy_find(const char *name, const struct policy **ret, struct error *error) {
    const char *names[ELEMENTS(policies)] = { NULL };
    const char *nearest;

    for (size_t i = 0; policies[i].name; i++) {
        names[i] = policies[i].name;
        if (text_equal(policies[i].name, name)) {
            *ret = &policies[i];
            return 0;
        }
    }
    nearest = text_suggest(name, names);
    _cleanup_free_ char *hint =
        nearest ? text_format("there is no such policy; did you mean %s?", nearest) : strdup("there is no such policy");
    return error_set(error, ERROR_BAD_VALUE, "policy", name, hint);
}

bool policy_is_alarm(int64_t key) {
    return key < fixed_key(-9e11);
}

int64_t policy_key(const struct policy *policy, const struct policy_parameters *parameters,
                   const struct policy_input *input) {
    return fixed_key(policy->score(parameters, input));
}

double policy_next_tag(double tag, double burst, double rate) {
    return rate > 0 ? tag + burst / rate : INFINITY;
}
