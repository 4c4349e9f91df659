/** Notifications that stand more than once: the first stays. */
import { pageOf, type Walk } from './walk.ts'

const again = `exists (
  select from notification o where o."recordUri" = t."recordUri" and o.did = t.did
    and o.reason = t.reason and o."recordCid" = t."recordCid" and o.id < t.id
    and o."reasonSubject" is not distinct from t."reasonSubject") as again`

export const walkNotifications: Walk = {
  name: 'notifications',
  table: 'notification',
  page: async (sql, { after: from, size, repair }) => {
    const place = { table: 'notification', key: ['id'], what: again, size }
    const { rows, after } = await pageOf<{ id: number | string; again: boolean }>(sql, place, from)
    const doubled = rows.filter((row) => row.again).map(({ id }) => String(id))
    if (repair) {
      await sql.unsafe('delete from notification where id = any($1::text[]::bigint[])', [doubled])
    }
    return { after, seen: rows.length, found: { notifications: doubled.length } }
  },
}
