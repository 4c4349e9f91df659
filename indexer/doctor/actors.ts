/** Accounts with records that have no row in `actor`: readers do not show what is theirs. */
import { type HostedEvent, setStatuses } from '../accounts.ts'
import { handleKind } from '../handles.ts'
import { ensureActors, isGone, lockRepos } from '../repos.ts'
import { relation } from '../write.ts'
import { distinctPage, type Walk } from './walk.ts'

/** The handle is due for a look, whenever that is asked. */
const longAgo = '1970-01-01T00:00:00.000Z'

export const walkActors: Walk = {
  name: 'actors',
  table: 'actor',
  page: async (sql, { after: from, size, repair }) => {
    const { rows, after } = await distinctPage(sql, { table: 'record', column: 'did', size }, from)
    const asked = JSON.stringify(rows.map((did) => ({ did })))
    const missing = await sql.unsafe<{ did: string }[]>(
      `select r.did from ${relation(['did'])}
       where not exists (select from actor a where a.did = r.did) and not ${isGone}`,
      [asked],
    )
    const dids = missing.map(({ did }) => did)
    if (repair && dids.length > 0) {
      await lockRepos(sql, [], dids)
      await ensureActors(sql, new Map(dids.map((did) => [did, longAgo])))
      const events = await sql.unsafe<HostedEvent[]>(
        `select * from account_event where type = 'account' and did = any($1::text[])`,
        [dids],
      )
      await setStatuses(sql, events)
      await sql.unsafe(
        `insert into reconcile (kind, key) select $2, r.did from ${relation(['did'])}
         on conflict (kind, key) do nothing`,
        [JSON.stringify(missing), handleKind],
      )
    }
    return { after, seen: rows.length, found: { actors: dids.length } }
  },
}
