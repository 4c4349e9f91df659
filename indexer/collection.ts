/** What a collection is to the indexer: data about a kind of record, and pure functions of one record. */

/** A value of a column; arrays and objects only in `json` columns. */
export type Value = string | number | boolean | null | object
export type Row = Readonly<Record<string, Value>>

/** What is known of a record beside its content. */
export interface Subject {
  uri: string
  /** The account whose repo holds it; the column `creator`. */
  did: string
  rkey: string
  cid: string
  indexedAt: string
}

/** A counter that each row moves by one, at the key that the row names; a null key counts nowhere. */
export interface Count<Column extends string = string> {
  table: 'post_agg' | 'profile_agg'
  column: string
  key: Column
  /** A column of the stored row: a row in which it is true does not count. */
  unless?: string
}

/** That an account is told of a row: never twice of one record for the same reason. */
export type Notify<Column extends string = string> = {
  reason: string
  /** A column with a time: where it stands among the others, and stays when the record is written
   * anew. By default the earlier of the row's times. */
  since?: 'indexedAt'
} & (
  | {
      /** A column with a URI: its author is told of it, but not of what he does himself. */
      authorOf: Column
      /** He is told of that too. */
      self?: true
      /** Nobody is told of what the author of this other column's URI does himself. */
      unlessBy?: Column
    }
  | {
      /** A column with an account, which is told whoever it is. */
      account: Column
    }
)

/** What other records' rows may depend on; a rule sets these when it has changed (`rules/`). */
export interface Touch<Column extends string = string> {
  kind: 'post' | 'thread' | 'quotes'
  /** The column with the URI of the post that it is about. */
  key: Column
  /** Whether it counts only that a row came, or also that one went. */
  when: 'came' | 'changed'
}

/** Rows of another table that come and go with the record. */
export interface Child<R> {
  table: string
  /** The column that holds the record's URI. */
  key: string
  rows: (record: R, at: Subject) => readonly Row[]
  counts?: readonly Count[]
  /** The rows stay when the record goes. */
  softDelete?: SoftDelete
}

export interface SoftDelete {
  /** Tells when the record went. */
  column: string
  /** The columns of the primary key, in its order, with those of the record's row that hold the same. */
  key: Readonly<Record<string, string>>
}

/** A definition whose record and columns are typed. */
export interface Definition<R, C extends string> {
  nsid: string
  /** Only the record with this key has a row; others keep their `record` row alone. */
  rkey?: 'self'
  /** False where the reference takes any content. */
  validated?: false
  /** Why a record that the lexicon allows is not stored at all, or null. */
  refuse?: (record: R, at: Subject) => string | null
  /** Beside `uri cid creator indexedAt`, which every table has. Without it: a `record` row only. */
  rows?: {
    table: string
    /** Null: this record has no row. */
    columns: (record: R, at: Subject) => Readonly<Record<C, Value>> | null
    /** The columns of type jsonb. */
    json?: readonly NoInfer<C>[]
    /** Only one record of each such key has a row; the others wait in `duplicate_record`. As its index has them. */
    unique?: readonly (NoInfer<C> | 'creator')[]
    counts?: readonly Count<NoInfer<C> | 'creator'>[]
    /** Who is told of the row; what reads other rows too is a rule. */
    notify?: readonly Notify<NoInfer<C>>[]
    /** Who is told when the row goes. Then nobody forgets that it came. */
    notifyGone?: readonly Notify<NoInfer<C>>[]
    touches?: Touch<NoInfer<C> | 'uri'>
    children?: readonly Child<R>[]
  }
}

/** A definition as the engine sees it: any record, any columns. */
export interface Collection {
  readonly nsid: string
  readonly rkey?: 'self'
  readonly validated?: false
  readonly refuse?: (record: never, at: Subject) => string | null
  readonly rows?: RowsOf
}

export interface RowsOf {
  readonly table: string
  readonly columns: (record: never, at: Subject) => Row | null
  readonly json?: readonly string[]
  readonly unique?: readonly string[]
  readonly counts?: readonly Count[]
  readonly notify?: readonly Notify[]
  readonly notifyGone?: readonly Notify[]
  readonly touches?: Touch
  readonly children?: readonly Child<never>[]
}

/** Checks a definition's types and forgets them: a misspelt column does not compile. */
export function defineCollection<R>(): <C extends string>(
  definition: Definition<R, C>,
) => Collection {
  return (definition) => definition
}
