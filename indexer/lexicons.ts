/** The published lexicons, compiled once into validators. */
import { schemas } from '@atproto/api'
import { type LexiconDocument, LexiconSchemaBuilder } from '@atproto/lex-document'
import { type JsonValue, jsonToLex } from '@atproto/lex-json'
import type { l } from '@atproto/lex-schema'

/** Tells what is wrong with a record of a known collection, or null. */
export type Validate = (collection: string, record: object) => string | null

/**
 * Compiles the validators of the given collections. Collections without a published lexicon are
 * valid whatever they hold. Takes some 20 ms, after that about 5 µs a record.
 */
export async function compileLexicons(collections: readonly string[]): Promise<Validate> {
  const documents = new Map(schemas.map((schema) => [schema.id as string, schema]))
  const indexer = {
    get: async (id: string) => {
      const document = documents.get(id)
      if (document === undefined) throw new Error(`no lexicon ${id}`)
      return withFullRefs(document) as LexiconDocument
    },
  }
  const validators = new Map<string, l.Schema>()
  for (const nsid of collections) {
    if (!documents.has(nsid)) continue
    validators.set(nsid, await LexiconSchemaBuilder.build(indexer, `${nsid}#main`))
  }
  return (collection, record) => {
    const validator = validators.get(collection)
    if (validator === undefined) return null
    const result = validator.safeValidate(jsonToLex(record as JsonValue))
    return result.success ? null : (result.reason?.message ?? 'invalid')
  }
}

/** The client package writes `lex:a.b.c`; the compiler wants `a.b.c#main`. */
function withFullRefs(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withFullRefs)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => {
      if (key === 'ref' && typeof item === 'string') return [key, fullRef(item)]
      if (key === 'refs' && Array.isArray(item)) return [key, item.map(String).map(fullRef)]
      return [key, withFullRefs(item)]
    }),
  )
}

function fullRef(ref: string): string {
  const plain = ref.replace(/^lex:/, '')
  return plain.includes('#') ? plain : `${plain}#main`
}
