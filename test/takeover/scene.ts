/** A network, a database as the older workers have it, and the stage of processes on them. */
import { readFile } from 'node:fs/promises'
import type { Sql } from 'postgres'
import { wallClock } from '../../simulator/clock.ts'
import type { Network } from '../../simulator/network.ts'
import { startPipeline } from '../pipeline.ts'
import { testDatabase } from '../servers/postgres.ts'
import type { Family } from './older/family.ts'
import type { Stage } from './play.ts'
import { openProcesses } from './processes.ts'
import { createTold } from './told.ts'

/** The tables that the AppView's migrations make; in R's databases `record` has a rev. */
export async function makeTables(sql: Sql, family: Family): Promise<void> {
  const appview = new URL('../../migrations/0001_appview.sql', import.meta.url)
  await sql.unsafe('create schema bsky')
  await sql.unsafe(await readFile(appview, 'utf8'))
  if (family === 'R') await sql.unsafe('alter table bsky.record add column rev varchar')
}

export interface Addresses {
  network: Network
  redisUrl: string
  databaseUrl: string
}

/** What the older workers are told, by the names of their family. */
export function olderSettings(
  family: Family,
  { network, redisUrl, databaseUrl }: Addresses,
): Record<string, string> {
  const shared = {
    PLC_URL: network.plc.url,
    HANDLE_RESOLVER: network.handleResolver.url,
    INGESTER_LABELER_HOSTS: network.labeler.url,
  }
  return family === 'T'
    ? {
        ...shared,
        REDIS_HOST: redisUrl.replace('redis://', ''),
        DB_POSTGRES_URL: databaseUrl,
        INGESTER_HOSTS: network.relay.url,
      }
    : {
        ...shared,
        REDIS_URL: redisUrl,
        DATABASE_URL: databaseUrl,
        INGESTER_RELAY_HOSTS: network.relay.url,
        INDEXER_GROUP: 'firehose_group',
      }
}

/** What ours are told beside the addresses. */
export function ourSettings(family: Family, { network }: Pick<Addresses, 'network'>) {
  return {
    INGESTER_LABELER_HOSTS: network.labeler.url,
    INGESTER_BATCH_SIZE: '20',
    INDEXER_BATCH_SIZE: '20',
    INDEXER_CONCURRENCY: '40',
    BACKFILLER_BATCH_SIZE: '20',
    // R's indexers read the labels under the name of their only group.
    INDEXER_LABEL_GROUP: family === 'T' ? 'label_group' : 'firehose_group',
  }
}

/** Opens it on servers of the run; everything of it ends with the stage. */
export async function openScene(family: Family, seed: string): Promise<Stage> {
  const resources = new AsyncDisposableStack()
  try {
    const database = resources.use(await testDatabase({ migrated: false }))
    await makeTables(database.sql, family)
    const told = createTold()
    const pipeline = resources.use(
      await startPipeline({
        seed,
        clock: wallClock(7),
        pds: 2,
        onEvent: told.note,
        servers: { postgres: { url: database.url } },
      }),
    )
    const stage = resources.use(
      await openProcesses({
        family,
        pipeline,
        told,
        ours: ourSettings(family, pipeline),
        older: olderSettings(family, pipeline),
      }),
    )
    return { ...stage, [Symbol.asyncDispose]: () => resources.disposeAsync() }
  } catch (error) {
    await resources.disposeAsync()
    throw error
  }
}
