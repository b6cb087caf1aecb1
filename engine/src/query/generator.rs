//! Tests: SQL at random, from a grammar that knows the columns that a caller sees and the functions of a session.
//!
//! Types are right and rows are selected by what may select them, so that most of it is answered; now and then neither
//! is so, and errors are seen too. A statement whose answer is not determined (rows cut off in no order, aggregates that
//! take rows as they come from several streams) would differ from itself: there is none.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::common::DFSchema;
use datafusion::logical_expr::{AggregateUDF, Expr, ExprSchemable, ScalarUDF, col};

use super::functions::FUNCTIONS;

/// What a caller sees, as far as statements hang on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sees {
    /// Texts.
    text: &'static [&'static str],
    /// Those that rows may be selected by.
    clear: &'static [&'static str],
    /// Whether records have their position among all.
    positions: bool,
    /// Whether rows are ordered and selected by a short list of columns only.
    strict: bool,
}

pub(super) const READER: Sees = Sees {
    text: TEXT,
    clear: CLEAR,
    positions: true,
    strict: false,
};
pub(super) const STRICT_READER: Sees = Sees {
    clear: STRICT,
    strict: true,
    ..READER
};
pub(super) const INVESTIGATOR: Sees = Sees {
    clear: TEXT,
    ..READER
};

impl Sees {
    /// The same under a row policy.
    pub(super) const fn restricted(self) -> Self {
        Self {
            positions: false,
            ..self
        }
    }
}

/// What may happen when a statement runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// No expression fails on a value, and the order in which rows come makes no difference: for several streams.
    Total,
    /// Any function with arguments of its types, any conversion: for a single stream, where it is determined what is met
    /// first.
    Partial,
}

const TEXT: &[&str] = &[
    "action",
    "resource_type",
    "resource_id",
    "actor_type",
    "actor_id",
    "trace_id",
    "span_id",
    "purpose",
    "context",
    "user_phone",
    "owner",
    "ticket",
    "tenant_id",
    "record_id",
    "stream",
    "schema_version",
    "labels['team']",
    "labels['env']",
    "labels['EMAIL']",
    "labels['none']",
    "context->'user'",
    "context->>'secret'",
    "json_get_str(context, 'user', 'phone')",
];
/// Those that readers may filter by.
const CLEAR: &[&str] = &[
    "action",
    "resource_type",
    "actor_type",
    "record_id",
    "stream",
    "schema_version",
    "ticket",
    "span_id",
    "labels['env']",
    "labels['none']",
];
/// Those that readers may filter by in the strict mode.
const STRICT: &[&str] = &[
    "action",
    "resource_type",
    "actor_type",
    "labels['env']",
    "labels['none']",
];
const TEXTS: &[&str] = &[
    "''",
    "'canar'",
    "'%o%'",
    "'prod'",
    "'res-'",
    "'2026-01-01'",
    "'-'",
    "'7'",
    "'[redacted]'",
    "CAST(NULL AS VARCHAR)",
];
const TEXT_OF_TEXT: &[&str] = &[
    "upper", "lower", "initcap", "reverse", "btrim", "ltrim", "rtrim", "md5", "concat",
];
const WHOLE_OF_TEXT: &[&str] = &["length", "octet_length", "bit_length", "ascii"];
const TIME_PARTS: &[&str] = &["'minute'", "'hour'", "'day'", "'year'"];
const PATTERNS: &[&str] = &["'^c'", "'[0-9]+'", "'one|other'", "'(a|b)'", "'.*'"];
const TYPES: &[&str] = &[
    "BIGINT",
    "VARCHAR",
    "DOUBLE",
    "TIMESTAMP",
    "BOOLEAN",
    "DATE",
    "DECIMAL(9, 2)",
];
/// What gives another answer every time, and what says where it is in a plan.
const UNDETERMINED: &[&str] = &["random", "uuid", "grouping"];
const DEPTH_MAX: u32 = 3;
/// How many kinds of arguments are tried on a function before another one is taken.
const TRIES: usize = 12;

/// What an expression is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Whole,
    Truth,
    Moment,
    List,
}

const KINDS: &[Kind] = &[
    Kind::Text,
    Kind::Whole,
    Kind::Truth,
    Kind::Moment,
    Kind::List,
];
/// Those that rows can be compared by.
const COMPARABLE: &[Kind] = &[Kind::Text, Kind::Whole, Kind::Truth, Kind::Moment];

impl Kind {
    fn of(data_type: &DataType) -> Option<Self> {
        match data_type {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Some(Self::Text),
            DataType::Int32 | DataType::Int64 => Some(Self::Whole),
            DataType::Boolean => Some(Self::Truth),
            DataType::Timestamp(_, Some(_)) => Some(Self::Moment),
            DataType::List(item) if Self::of(item.data_type()) == Some(Self::Text) => {
                Some(Self::List)
            }
            _ => None,
        }
    }

    /// A column of this kind in [`TYPED`].
    fn column(self) -> Expr {
        col(match self {
            Self::Text => "text",
            Self::Whole => "whole",
            Self::Truth => "truth",
            Self::Moment => "moment",
            Self::List => "list",
        })
    }
}

/// A column of each kind.
static TYPED: LazyLock<DFSchema> = LazyLock::new(|| {
    let moment = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let list = DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)));
    let fields = vec![
        Field::new("text", DataType::Utf8, true),
        Field::new("whole", DataType::Int64, true),
        Field::new("truth", DataType::Boolean, true),
        Field::new("moment", moment, true),
        Field::new("list", list, true),
    ];
    DFSchema::try_from(Schema::new(fields)).unwrap()
});

static SCALAR: LazyLock<Vec<Arc<ScalarUDF>>> = LazyLock::new(|| {
    let mut functions = FUNCTIONS.scalar();
    functions.retain(|function| !UNDETERMINED.contains(&function.name()));
    functions.sort_unstable_by_key(|function| function.name().to_owned());
    functions
});

static AGGREGATE: LazyLock<Vec<Arc<AggregateUDF>>> = LazyLock::new(|| {
    let mut functions = FUNCTIONS.aggregate();
    functions.retain(|function| !UNDETERMINED.contains(&function.name()));
    functions.sort_unstable_by_key(|function| function.name().to_owned());
    functions
});

/// The statement of a number: the same for ever, as long as grammar and functions are.
pub(super) fn statement(seed: u64, sees: Sees, manner: Manner) -> String {
    let mut grammar = Grammar {
        state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5DEE_CE66,
        sees,
        manner,
        of: "r.".to_owned(),
        subqueries: 2,
        place: Place::Shown,
    };
    grammar.query()
}

/// Where an expression stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Among the columns of an answer.
    Shown,
    /// Where rows are selected: what is masked may not be looked at there, and seldom is.
    Selecting,
    /// The same in a WHERE, which may ask another query.
    Where,
}

struct Grammar {
    state: u64,
    sees: Sees,
    manner: Manner,
    /// What stands before a column's name.
    of: String,
    subqueries: u32,
    place: Place,
}

impl Grammar {
    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn query(&mut self) -> String {
        match self.below(13) {
            0 | 1 => self.rows(),
            2 | 3 => self.groups(),
            4 => self.windows(),
            5 => self.join(),
            6 => self.set_operation(),
            7 => self.common_table(),
            8 => self.distinct(),
            9 => self.grouping_sets(),
            10 => self.recursive(),
            11 => self.aggregates(),
            _ => self.nested(),
        }
    }

    fn rows(&mut self) -> String {
        let (shown, by) = (self.list(), self.key());
        let (truth, limit) = (self.condition(DEPTH_MAX), self.below(9));
        let way = self.pick(&["", "DESC", "NULLS FIRST"]);
        format!(
            "SELECT {shown} FROM records r WHERE {truth} ORDER BY {by} {way}, record_id LIMIT {limit}"
        )
    }

    fn groups(&mut self) -> String {
        let (key, one, two) = (self.any(), self.aggregate(), self.aggregate());
        let (truth, having) = (self.condition(2), self.having());
        format!(
            "SELECT {key} AS k, {one}, {two} FROM records r WHERE {truth} GROUP BY k HAVING {having}"
        )
    }

    fn aggregates(&mut self) -> String {
        let (one, two, three) = (self.aggregate(), self.aggregate(), self.aggregate());
        let truth = self.condition(2);
        format!("SELECT {one}, {two}, {three} FROM records r WHERE {truth}")
    }

    fn windows(&mut self) -> String {
        let (key, by) = (self.any(), self.key());
        let value = self.any();
        let function = match self.below(10) {
            0 => "row_number()".to_owned(),
            1 => "rank()".to_owned(),
            2 => "ntile(3)".to_owned(),
            3 => format!("lag({value})"),
            4 => format!("first_value({value})"),
            5 => format!("max({})", self.comparable()),
            6 => format!("count({value})"),
            7 => "cume_dist()".to_owned(),
            8 => format!("lead({value}, 2)"),
            _ => format!("nth_value({value}, 2)"),
        };
        let truth = self.condition(2);
        format!(
            "SELECT record_id, {function} OVER (PARTITION BY {key} ORDER BY {by}, record_id) FROM records r WHERE {truth}"
        )
    }

    fn join(&mut self) -> String {
        self.of = "a.".to_owned();
        let (mine, truth) = (self.any(), self.condition(2));
        let left = self.joining();
        self.of = "b.".to_owned();
        let (right, counted) = (self.joining(), self.any());
        self.of = "r.".to_owned();
        let kind = self.pick(&["JOIN", "LEFT JOIN", "FULL JOIN", "RIGHT JOIN"]);
        if self.chance(30) {
            let kind = self.pick(&["LEFT SEMI JOIN", "LEFT ANTI JOIN"]);
            return format!(
                "SELECT {mine} FROM records a {kind} records b ON {left} = {right} WHERE {truth}"
            );
        }
        format!(
            "SELECT {mine}, count({counted}) FROM records a {kind} records b ON {left} = {right} AND a.created_at < b.created_at \
             WHERE {truth} GROUP BY 1"
        )
    }

    fn set_operation(&mut self) -> String {
        if self.chance(50) {
            // Both are read at a time: none of them may fail, or it is chance which one is heard of.
            let manner = std::mem::replace(&mut self.manner, Manner::Total);
            let kind = self.pick(COMPARABLE);
            let (one, two) = (self.value(kind, 3), self.value(kind, 3));
            let (here, there) = (self.condition(2), self.condition(2));
            self.manner = manner;
            let operation = self.pick(&["UNION", "UNION ALL"]);
            return format!(
                "SELECT {one} AS x FROM records r WHERE {here} {operation} SELECT {two} FROM records r WHERE {there}"
            );
        }
        let operation = self.pick(&["INTERSECT", "EXCEPT", "EXCEPT ALL", "INTERSECT ALL"]);
        let (one, two) = (self.joining(), self.joining());
        let (here, there) = (self.condition(2), self.condition(2));
        format!(
            "SELECT {one} AS x FROM records r WHERE {here} {operation} SELECT {two} FROM records r WHERE {there}"
        )
    }

    fn common_table(&mut self) -> String {
        let (x, y) = self.at(Place::Selecting, |grammar| {
            (grammar.value(Kind::Text, 3), grammar.value(Kind::Whole, 3))
        });
        let inner = self.condition(2);
        let sought = self.pick(TEXTS);
        format!(
            "WITH t AS (SELECT created_at AS id, {x} AS x, {y} AS y FROM records r WHERE {inner}) \
             SELECT a.x, max(b.y), count(*) FROM t a, t b WHERE a.id = b.id AND (a.x LIKE {sought} OR b.y > 3) GROUP BY a.x"
        )
    }

    fn distinct(&mut self) -> String {
        let (key, shown, truth) = (self.comparable(), self.any(), self.condition(3));
        if self.sees.strict || self.chance(50) {
            return format!("SELECT DISTINCT {key}, {shown} FROM records r WHERE {truth}");
        }
        format!(
            "SELECT DISTINCT ON ({key}) {key}, {shown} FROM records r WHERE {truth} ORDER BY {key}, record_id"
        )
    }

    fn grouping_sets(&mut self) -> String {
        let (x, y) = (self.comparable(), self.comparable());
        let one = self.aggregate();
        let sets = self.pick(&[
            "CUBE (x, y)",
            "ROLLUP (x, y)",
            "GROUPING SETS ((x), (y), ())",
        ]);
        format!(
            "SELECT x, y, {one} FROM (SELECT *, {x} AS x, {y} AS y FROM records r) r GROUP BY {sets}"
        )
    }

    fn recursive(&mut self) -> String {
        let (first, truth) = (self.value(Kind::Whole, 2), self.condition(2));
        format!(
            "WITH RECURSIVE t AS (SELECT CAST({first} AS BIGINT) AS n, 0 AS steps FROM records r WHERE {truth} \
             UNION SELECT n + 1, steps + 1 FROM t WHERE steps < 3) SELECT n, count(*) FROM t GROUP BY n"
        )
    }

    fn nested(&mut self) -> String {
        let (x, y) = (self.joining(), self.any());
        let (outer, sought) = (
            self.pick(&["upper(x)", "x || y", "length(x)", "x = y", "md5(x)"]),
            self.pick(TEXTS),
        );
        format!(
            "SELECT {outer} AS z, count(*) FROM (SELECT {x} AS x, CAST({y} AS VARCHAR) AS y FROM records r) WHERE x <> {sought} GROUP BY z"
        )
    }

    fn list(&mut self) -> String {
        let count = 1 + self.below(3);
        // Under names of their own: what an ORDER BY adds to them comes in the order of a hash table, and a refusal of two
        // of one name says where they stand.
        let shown = (0..count).map(|number| format!("{} AS c{number}", self.any()));
        shown.collect::<Vec<_>>().join(", ")
    }

    fn any(&mut self) -> String {
        let kind = self.pick(KINDS);
        self.value(kind, 2)
    }

    fn comparable(&mut self) -> String {
        let kind = self.pick(COMPARABLE);
        self.value(kind, 2)
    }

    /// What rows are ordered by.
    fn key(&mut self) -> String {
        if self.sees.strict && !self.chance(3) {
            return "created_at".to_owned();
        }
        self.value(Kind::Text, 2)
    }

    fn having(&mut self) -> String {
        let one = self.at(Place::Selecting, Self::aggregate);
        match self.below(3) {
            0 => format!("{one} IS NOT NULL"),
            1 => "count(*) > 1".to_owned(),
            _ => format!("CAST({one} AS VARCHAR) > 'm'"),
        }
    }

    fn aggregate(&mut self) -> String {
        let (text, whole) = (self.value(Kind::Text, 2), self.value(Kind::Whole, 2));
        if self.manner == Manner::Partial && self.chance(30) {
            return self.any_aggregate();
        }
        match self.below(13) {
            0 => format!("count({text})"),
            1 => format!("count(DISTINCT {text})"),
            2 => format!("max({text})"),
            3 => format!("min({text})"),
            4 => format!("sum({whole})"),
            5 => format!("avg({whole})"),
            6 => format!("bool_or({})", self.value(Kind::Truth, 2)),
            7 => format!(
                "count(*) FILTER (WHERE {})",
                self.at(Place::Selecting, |grammar| grammar.value(Kind::Truth, 2))
            ),
            8 => format!("array_agg({text} ORDER BY record_id)"),
            9 => format!("string_agg({text}, ';' ORDER BY record_id)"),
            10 => format!("first_value({text} ORDER BY record_id)"),
            11 => format!("median({whole})"),
            _ => format!("bit_xor({whole})"),
        }
    }

    /// An expression in another place.
    fn at<T>(&mut self, place: Place, made: impl FnOnce(&mut Self) -> T) -> T {
        let before = std::mem::replace(&mut self.place, place);
        let made = made(self);
        self.place = before;
        made
    }

    /// What follows WHERE.
    fn condition(&mut self, depth: u32) -> String {
        self.at(Place::Where, |grammar| grammar.value(Kind::Truth, depth))
    }

    /// What rows are joined by.
    fn joining(&mut self) -> String {
        self.at(Place::Selecting, |grammar| grammar.value(Kind::Text, 2))
    }

    fn value(&mut self, kind: Kind, depth: u32) -> String {
        if depth == 0 || self.chance(20) {
            return self.leaf(kind);
        }
        if self.manner == Manner::Partial && self.chance(15) {
            return self.any_call(kind, depth - 1);
        }
        if self.chance(8) {
            let truth = self.value(Kind::Truth, depth - 1);
            let (one, two) = (self.value(kind, depth - 1), self.value(kind, depth - 1));
            return format!("CASE WHEN {truth} THEN {one} ELSE {two} END");
        }
        match kind {
            Kind::Text => self.text(depth - 1),
            Kind::Whole => self.whole(depth - 1),
            Kind::Truth => self.truth(depth - 1),
            Kind::Moment => self.moment(depth - 1),
            Kind::List => self.texts(depth - 1),
        }
    }

    fn text_column(&mut self) -> String {
        if self.place != Place::Shown && !self.chance(1) {
            self.column(self.sees.clear)
        } else {
            self.column(self.sees.text)
        }
    }

    fn column(&mut self, names: &[&str]) -> String {
        let name = self.pick(names);
        format!("{}{name}", self.of)
    }

    fn leaf(&mut self, kind: Kind) -> String {
        let is_short = self.sees.strict && self.place != Place::Shown;
        match kind {
            Kind::Text if self.chance(25) => self.pick(TEXTS).to_owned(),
            Kind::Text => self.text_column(),
            Kind::Whole if self.chance(40) => self.below(12).to_string(),
            Kind::Whole if self.sees.positions && !is_short => self.column(&["leaf_index"]),
            Kind::Whole => {
                let moment = self.column(&["created_at"]);
                format!("CAST(date_part('minute', {moment}) AS BIGINT)")
            }
            Kind::Truth => {
                let (one, two) = (self.text_column(), self.pick(TEXTS));
                format!("{one} {} {two}", self.pick_comparison())
            }
            Kind::Moment if is_short => self.column(&["created_at"]),
            Kind::Moment => self.column(&["created_at", "ingested_at"]),
            Kind::List if self.place != Place::Shown => {
                format!("make_array({})", self.text_column())
            }
            Kind::List => format!("map_values({}labels)", self.of),
        }
    }

    fn pick_comparison(&mut self) -> &'static str {
        self.pick(&[
            "=",
            "<>",
            "<",
            ">",
            "LIKE",
            "NOT LIKE",
            "ILIKE",
            "IS DISTINCT FROM",
        ])
    }

    fn text(&mut self, depth: u32) -> String {
        let text = self.value(Kind::Text, depth);
        match self.below(13) {
            0 | 1 => format!("{}({text})", self.pick(TEXT_OF_TEXT)),
            2 => format!("({text} || {})", self.value(Kind::Text, depth)),
            3 => format!("substr({text}, {})", self.value(Kind::Whole, depth)),
            4 => format!("split_part({text}, '-', {})", 1 + self.below(4)),
            5 => format!("coalesce({text}, {})", self.value(Kind::Text, depth)),
            6 => format!("nullif({text}, {})", self.value(Kind::Text, depth)),
            7 => format!("replace({text}, 'a', {})", self.value(Kind::Text, depth)),
            8 => format!("regexp_replace({text}, {}, 'r')", self.pick(PATTERNS)),
            9 => format!("left({text}, {})", self.below(9)),
            10 => format!("({})[{}]", self.value(Kind::List, depth), self.below(4)),
            11 => format!("encode(sha256({text}), 'hex')"),
            _ => {
                let kind = self.pick(KINDS);
                format!("CAST({} AS VARCHAR)", self.value(kind, depth))
            }
        }
    }

    fn whole(&mut self, depth: u32) -> String {
        match self.below(8) {
            0 | 1 => {
                let function = self.pick(WHOLE_OF_TEXT);
                format!("{function}({})", self.value(Kind::Text, depth))
            }
            2 => {
                let operator = self.pick(&["+", "-", "*", "&", "|"]);
                format!(
                    "({} {operator} {})",
                    self.value(Kind::Whole, depth),
                    self.value(Kind::Whole, depth)
                )
            }
            3 => format!(
                "strpos({}, {})",
                self.value(Kind::Text, depth),
                self.value(Kind::Text, depth)
            ),
            4 => format!("abs({})", self.value(Kind::Whole, depth)),
            5 => format!("TRY_CAST({} AS BIGINT)", self.value(Kind::Text, depth)),
            6 => format!(
                "CAST(cardinality({}) AS BIGINT)",
                self.value(Kind::List, depth)
            ),
            _ => format!(
                "CAST(date_part({}, {}) AS BIGINT)",
                self.pick(TIME_PARTS),
                self.value(Kind::Moment, depth)
            ),
        }
    }

    fn truth(&mut self, depth: u32) -> String {
        match self.below(12) {
            0 | 1 => {
                let comparison = self.pick_comparison();
                format!(
                    "{} {comparison} {}",
                    self.value(Kind::Text, depth),
                    self.value(Kind::Text, depth)
                )
            }
            2 => {
                let operator = self.pick(&["AND", "OR"]);
                format!(
                    "({} {operator} {})",
                    self.value(Kind::Truth, depth),
                    self.value(Kind::Truth, depth)
                )
            }
            3 => format!("NOT ({})", self.value(Kind::Truth, depth)),
            4 => {
                let kind = self.pick(KINDS);
                format!("{} IS NULL", self.value(kind, depth))
            }
            5 => format!(
                "{} > {}",
                self.value(Kind::Whole, depth),
                self.value(Kind::Whole, depth)
            ),
            6 => format!(
                "{} < {}",
                self.value(Kind::Moment, depth),
                self.value(Kind::Moment, depth)
            ),
            7 => format!(
                "{} ~ {}",
                self.value(Kind::Text, depth),
                self.pick(PATTERNS)
            ),
            8 => format!(
                "starts_with({}, {})",
                self.value(Kind::Text, depth),
                self.value(Kind::Text, depth)
            ),
            9 => format!(
                "array_has({}, {})",
                self.value(Kind::List, depth),
                self.value(Kind::Text, depth)
            ),
            10 if self.place == Place::Where => self.subquery(depth),
            _ => format!(
                "{} BETWEEN {} AND {}",
                self.value(Kind::Text, depth),
                self.value(Kind::Text, depth),
                self.value(Kind::Text, depth)
            ),
        }
    }

    fn subquery(&mut self, depth: u32) -> String {
        if self.subqueries == 0 {
            return "true".to_owned();
        }
        self.subqueries -= 1;
        let sought = self.value(Kind::Text, depth);
        let of = std::mem::replace(&mut self.of, "s.".to_owned());
        let (found, truth) = self.at(Place::Selecting, |grammar| {
            let found = grammar.value(Kind::Text, depth);
            (found, grammar.value(Kind::Truth, depth))
        });
        self.of = of;
        match self.below(3) {
            0 => format!("{sought} IN (SELECT {found} FROM records s WHERE {truth})"),
            1 => format!("{sought} < (SELECT max({found}) FROM records s WHERE {truth})"),
            _ => format!("EXISTS (SELECT 1 FROM records s WHERE {truth} AND {found} = {sought})"),
        }
    }

    fn moment(&mut self, depth: u32) -> String {
        let moment = self.value(Kind::Moment, depth);
        match self.below(3) {
            0 => format!("date_trunc({}, {moment})", self.pick(TIME_PARTS)),
            1 => format!("({moment} + INTERVAL '1' HOUR)"),
            _ => format!("coalesce({moment}, {})", self.value(Kind::Moment, depth)),
        }
    }

    fn texts(&mut self, depth: u32) -> String {
        match self.below(5) {
            0 => format!(
                "make_array({}, {})",
                self.value(Kind::Text, depth),
                self.value(Kind::Text, depth)
            ),
            1 => format!("string_to_array({}, '-')", self.value(Kind::Text, depth)),
            2 => format!("array_sort({})", self.value(Kind::List, depth)),
            3 if self.place == Place::Shown => format!("map_keys({}labels)", self.of),
            _ => format!(
                "regexp_match({}, {})",
                self.value(Kind::Text, depth),
                self.pick(PATTERNS)
            ),
        }
    }

    /// Any function, or any type.
    fn any_call(&mut self, kind: Kind, depth: u32) -> String {
        let given = self.pick(KINDS);
        if self.chance(20) {
            let to = self.pick(TYPES);
            let cast = format!("CAST({} AS {to})", self.value(given, depth));
            return self.turned(&cast, None, kind);
        }
        let function = Arc::clone(&SCALAR[self.below(SCALAR.len())]);
        let taken = self.takes(|arguments| function.call(arguments));
        // Now and then what is given is not of any type that is taken.
        let (kinds, gives) = match taken {
            Some(taken) => taken,
            None if self.chance(10) => (vec![given], DataType::Null),
            None => return self.leaf(kind),
        };
        let arguments: Vec<_> = kinds.iter().map(|own| self.value(*own, depth)).collect();
        let call = format!("{}({})", function.name(), arguments.join(", "));
        self.turned(&call, Some(&gives), kind)
    }

    fn any_aggregate(&mut self) -> String {
        let function = Arc::clone(&AGGREGATE[self.below(AGGREGATE.len())]);
        match self.takes(|arguments| function.call(arguments)) {
            None => "count(*)".to_owned(),
            Some((kinds, _)) => {
                let arguments: Vec<_> = kinds.iter().map(|own| self.value(*own, 1)).collect();
                format!("{}({})", function.name(), arguments.join(", "))
            }
        }
    }

    /// Arguments that a function takes, and what it makes of them; none if they were not found soon.
    fn takes(&mut self, call: impl Fn(Vec<Expr>) -> Expr) -> Option<(Vec<Kind>, DataType)> {
        for _ in 0..TRIES {
            let count = 1 + self.below(3);
            let kinds: Vec<Kind> = (0..count).map(|_| self.pick(KINDS)).collect();
            let arguments = kinds.iter().map(|kind| kind.column()).collect();
            if let Ok(gives) = call(arguments).get_type(&*TYPED) {
                return Some((kinds, gives));
            }
        }
        None
    }

    /// The value of an expression of another type, as what is wanted.
    fn turned(&mut self, expression: &str, from: Option<&DataType>, to: Kind) -> String {
        if from.and_then(Kind::of) == Some(to) {
            return expression.to_owned();
        }
        let is_text = from.is_none_or(|from| {
            !from.is_nested()
                && !matches!(
                    from,
                    DataType::Binary | DataType::LargeBinary | DataType::BinaryView
                )
        });
        match to {
            Kind::Text if is_text => format!("CAST({expression} AS VARCHAR)"),
            Kind::List if is_text => format!("make_array(CAST({expression} AS VARCHAR))"),
            Kind::Whole if is_text => format!("octet_length(CAST({expression} AS VARCHAR))"),
            Kind::Truth => format!("{expression} IS NOT NULL"),
            other => {
                let (one, two) = (self.leaf(other), self.leaf(other));
                format!("CASE WHEN {expression} IS NULL THEN {one} ELSE {two} END")
            }
        }
    }
}
