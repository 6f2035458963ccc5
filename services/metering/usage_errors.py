"""The refusals of sums, corrections, re-rates, events, exports and retention of usage."""

from libs.common.errors import Kind, Refusal


class TooMuchUsage(Refusal):
    """The sums of all organizations in a single window are of more rows than one answer may read."""

    kind = Kind.FAILED_PRECONDITION
    reason = "TOO_MUCH_USAGE"
    template = (
        "A single window of all these organizations has more than {rows} hourly sums: ask by shorter windows, for a"
        " shorter range, or grouped by organization."
    )
    remedy = "Ask by shorter windows, for a shorter range, or grouped by organization."


class TooManyTotals(Refusal):
    """The usage of an export has more units and currencies than a resume token has room for."""

    kind = Kind.FAILED_PRECONDITION
    reason = "TOO_MANY_TOTALS"
    template = "The usage has more units and currencies than one export can add up: narrow it."
    remedy = "Export fewer organizations, or a shorter range, at a time."


class TooManyRows(Refusal):
    """An answer that is one page would have more rows than that."""

    kind = Kind.FAILED_PRECONDITION
    reason = "TOO_MANY_ROWS"
    template = "The answer would have more than {rows} rows: ask for fewer windows or groups."
    remedy = "Ask by longer windows, for a shorter range, or for fewer groups."


class TooManyCalls(Refusal):
    """Minutes are summed from the calls themselves, of which one answer reads a limited number."""

    kind = Kind.FAILED_PRECONDITION
    reason = "TOO_MANY_CALLS"
    template = "There are more than {calls} calls in the range: ask for a shorter range, or by HOUR."
    remedy = "Ask for a shorter range, or by HOUR."


class UsageVoided(Refusal):
    """Voided usage costs nothing and counts nowhere; it can only be restored."""

    kind = Kind.FAILED_PRECONDITION
    reason = "USAGE_VOIDED"
    template = "The usage of {operation_id} is voided."
    remedy = "Restore the usage first, if it is to be changed."


class UsageNotVoided(Refusal):
    """Only voided usage can be restored."""

    kind = Kind.FAILED_PRECONDITION
    reason = "USAGE_NOT_VOIDED"
    template = "The usage of {operation_id} is not voided."
    remedy = "Nothing needs to be done."


class NothingToAmend(Refusal):
    """The usage is already as the amendment says, so there is nothing to store."""

    kind = Kind.FAILED_PRECONDITION
    reason = "NOTHING_TO_AMEND"
    template = "The usage of {operation_id} is so already."
    remedy = "Nothing needs to be done."


class AmountNotStated(Refusal):
    """The cost of the usage is computed from a price, so no amount can be stated for it."""

    kind = Kind.FAILED_PRECONDITION
    reason = "AMOUNT_NOT_STATED"
    template = "The cost of the usage of {operation_id} is computed from a price."
    remedy = "Amend the quantities instead."


class PriceOfAnotherModel(Refusal):
    """A price version holds for one model alone."""

    kind = Kind.FAILED_PRECONDITION
    reason = "PRICE_OF_ANOTHER_MODEL"
    template = "The price version {price_version_id} is for the model {model_id}."
    remedy = "Name a price version of the model."


class TooManyCorrections(Refusal):
    """The number of corrections of one usage is limited, since all of them are read for the next one."""

    kind = Kind.FAILED_PRECONDITION
    reason = "TOO_MANY_CORRECTIONS"
    template = "The usage of {operation_id} has had {corrections} corrections, which is the maximum."
    remedy = "Void the usage, and record what is right under another operation id."


class PriceOfAnotherCurrency(Refusal):
    """The price is in another currency than the usage was charged in."""

    kind = Kind.FAILED_PRECONDITION
    reason = "PRICE_OF_ANOTHER_CURRENCY"
    template = "The price version {price_version_id} is in {currency_code}, not in {charged_currency_code}."
    remedy = "Choose a price version in the currency in which the usage was charged."


class AmountOfAnotherCurrency(Refusal):
    """The amount is in another currency than the usage was charged in, or will be."""

    kind = Kind.FAILED_PRECONDITION
    reason = "AMOUNT_OF_ANOTHER_CURRENCY"
    template = "The usage of {operation_id} is charged in {charged_currency_code}, not in {currency_code}."
    remedy = "State the amount in the currency of the charge, or void the usage and record it under another id."


class RerateChanged(Refusal):
    """A re-rate would do something else than the preview whose digest it is bound to."""

    kind = Kind.FAILED_PRECONDITION
    reason = "RERATE_CHANGED"
    template = "The re-rate would not do any more what the digest {digest} says."
    remedy = "Look at what it would do now with validate_only, and send the new digest."


class TooManyRerateJobs(Refusal):
    """As many jobs have not ended as there may be."""

    kind = Kind.FAILED_PRECONDITION
    reason = "TOO_MANY_RERATE_JOBS"
    template = "{jobs} re-rates have not ended."
    remedy = "Wait until some are done, or cancel some."


class RerateJobEnded(Refusal):
    """A job that has ended stays as it is."""

    kind = Kind.FAILED_PRECONDITION
    reason = "RERATE_JOB_ENDED"
    template = "The re-rate {job_id} is {state}."
    remedy = "Re-rate the usage at the price before, if it is to be undone."


class EventTypeUnknown(Refusal):
    """Nothing says what events of this type mean, so nothing of the event is recorded."""

    kind = Kind.FAILED_PRECONDITION
    reason = "EVENT_TYPE_UNKNOWN"
    template = "Events of the type {event_type} have no mapping."
    remedy = "Set a mapping of the type with SetEventMapping, then send the event again."


class TooManyEventMappings(Refusal):
    """Every process keeps all mappings of events in memory, so their number is limited."""

    kind = Kind.FAILED_PRECONDITION
    reason = "TOO_MANY_EVENT_MAPPINGS"
    template = "There are {mappings} mappings of events, which is the maximum."
    remedy = "Delete one that is not used any more."


class UsageDropped(Refusal):
    """The record of the usage was dropped with its month, after an export. Its sums and its charge stay."""

    kind = Kind.FAILED_PRECONDITION
    reason = "USAGE_DROPPED"
    template = "The usage of {operation_id} was recorded in {month}, whose records were dropped. Nothing was changed."
    remedy = "Look it up in the export. Record a correction under another operation id in the present month."


class UsageMonthDropped(Refusal):
    """The usage records of a month are dropped, or will be, so nothing changes in it, and no file has it all."""

    kind = Kind.FAILED_PRECONDITION
    reason = "USAGE_MONTH_DROPPED"
    template = "The usage of {month} is dropped, or is being dropped. QueryUsage has its sums."
    remedy = "Ask for later usage, and QueryUsage for the sums. A correction is recorded in the present month."


class UsageRetained(Refusal):
    """The retention of usage is not over, so it may not be dropped."""

    kind = Kind.FAILED_PRECONDITION
    reason = "USAGE_RETAINED"
    template = "The usage of {month} is kept: the retention is {months} months; 0 means for ever."
    remedy = "Wait, or set a shorter retention with SetUsageRetention."


class UsageMonthOpen(Refusal):
    """Something may still change in the month: late usage, prices, charges or calls that have not ended."""

    kind = Kind.FAILED_PRECONDITION
    reason = "USAGE_MONTH_OPEN"
    template = "The usage of {month} can still change: {cause}."
    remedy = "Wait until it is settled, or put right what waits: tollhouse verify names it."


class UsageExportDiffers(Refusal):
    """What is recorded differs from what the export has."""

    kind = Kind.FAILED_PRECONDITION
    reason = "USAGE_EXPORT_DIFFERS"
    template = "The usage of {month} differs from its export: {difference}."
    remedy = "Export the month again."


class UsageNotDropped(Refusal):
    """The record of the usage is there, so it is corrected by itself."""

    kind = Kind.FAILED_PRECONDITION
    reason = "USAGE_NOT_DROPPED"
    template = "The usage of {operation_id} was not dropped."
    remedy = "Correct it with AmendUsage or VoidUsage."
