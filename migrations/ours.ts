/** What a database has beyond the tables of the AppView: the only differences between the catalogues. */

/** The version of the AppView whose tables the migrations create. */
export const appviewVersion = '0.0.280'

/** Tables of ours. */
export const ownTables = [
  'account_event',
  'account_purge',
  'doctor_progress',
  'position',
  'reconcile',
  'record_tombstone',
  'repo_sync',
  'sluice_migration',
] as const

/** Columns of ours in tables of the AppView, as `table.column`. */
export const ownColumns = ['record.rev'] as const

/** Indexes of ours on tables of the AppView. */
export const ownIndexes = ['sluice_post_answers_idx', 'sluice_post_thread_idx'] as const
