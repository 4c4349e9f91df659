/** Runs the reference AppView's own migrations into DATABASE_URL's schema bsky (a child process of the catalogue test). */
import { Database } from '@atproto/bsky'

const [url, schema] = process.argv.slice(2)
const database = new Database({ url, schema })
const results = await database.migrateToLatestOrThrow()
await database.close()
console.log(JSON.stringify({ migrations: results.length }))
