/** Runs the AppView's own migrations; prints how many ran: `node migrate.mjs <url> <schema>`. */
import { Database } from '@atproto/bsky'

const [url, schema] = process.argv.slice(2)
const database = new Database({ url, schema })
const results = await database.migrateToLatestOrThrow()
await database.close()
console.log(results.length)
