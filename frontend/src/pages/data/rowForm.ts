/** Which fields of a row a form can show: texts, and a list of messages; the rest stays as it is. */
import type { Columns, Json, JsonObject } from './sets'

export type TextField = { kind: 'text'; name: string; value: string }
export type MessageField = { role: string; content: string }
export type ListField = {
  kind: 'messages'
  name: string
  roleKey: string
  contentKey: string
  messages: MessageField[]
}
export type Field = TextField | ListField
const MESSAGE_KEYS: [string, string][] = [
  ['role', 'content'],
  ['from', 'value']
]

export function isObject(value: Json | undefined): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Take a row apart into fields; those that its format needs are there even where the row lacks them. */
export function fieldsOf(row: Json, columns: Columns | null): Field[] {
  const known: JsonObject = isObject(row) ? row : {}
  const fields: Field[] = []
  for (const [name, value] of Object.entries(known)) {
    if (typeof value === 'string' || value === null) fields.push({ kind: 'text', name, value: value ?? '' })
    const list = listField(name, value)
    if (list) fields.push(list)
  }
  if (columns?.formatting === 'alpaca') {
    for (const part of ['prompt', 'query', 'response']) {
      const name = columns.columns[part]
      if (name && !(name in known)) fields.push({ kind: 'text', name, value: '' })
    }
  }
  return fields
}

function listField(name: string, value: Json): ListField | null {
  if (!Array.isArray(value) || !value.length || !value.every(isObject)) return null
  for (const [roleKey, contentKey] of MESSAGE_KEYS) {
    const messages = value.map((entry) => ({ role: entry[roleKey], content: entry[contentKey] }))
    const isText = messages.every(
      (message) => typeof message.role === 'string' && typeof message.content === 'string'
    )
    if (isText) return { kind: 'messages', name, roleKey, contentKey, messages: messages as MessageField[] }
  }
  return null
}

/** Put fields back into their row; what no field shows stays. */
export function rowOf(row: Json, fields: Field[]): JsonObject {
  const changed: JsonObject = isObject(row) ? { ...row } : {}
  for (const field of fields) {
    if (field.kind === 'text') {
      if (field.value !== '' || changed[field.name] !== null) changed[field.name] = field.value
      continue
    }
    const before = changed[field.name]
    changed[field.name] = field.messages.map((message, index) => ({
      ...(Array.isArray(before) && isObject(before[index]) ? before[index] : {}),
      [field.roleKey]: message.role,
      [field.contentKey]: message.content
    }))
  }
  return changed
}
