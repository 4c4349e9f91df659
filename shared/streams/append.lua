-- Appends a batch with its cursor, exactly once, by whoever holds the fence.
--
-- KEYS  stream, session, [fence], cursor...
-- ARGV  batch number, seconds that a session is kept, fence token or '', cursor kind or '',
--       cursor, then for each entry: how many fields follow, the fields
-- Gives {'appended'|'again', last id}, {'fenced', holder}, {'rewound', last id of the stream}
--
-- A session holds 'number id': its last batch and the last id it appended. A number that is already
-- there is a batch whose reply was lost; one too high means that Redis has gone back since.
-- Every check precedes the first write, and the first write is one that a full Redis refuses: all or
-- nothing.

local function ahead(new, old)
  if not old or not string.match(old, '^%d+$') then return true end
  new, old = string.gsub(new, '^0+', ''), string.gsub(old, '^0+', '')
  -- As text: a double holds 53 bits, a seq 63.
  if #new ~= #old then return #new > #old end
  return new > old
end

local stream, session = KEYS[1], KEYS[2]
local number, token, kind, cursor = tonumber(ARGV[1]), ARGV[3], ARGV[4], ARGV[5]
local cursors = 3

if token ~= '' then
  cursors = 4
  local holder = redis.call('GET', KEYS[3])
  if holder and holder ~= token then
    local mine, theirs = string.match(token, '^%d+'), string.match(holder, '^%d+')
    if not ahead(mine, theirs) then return {'fenced', holder} end
  end
end

local stored, last = string.match(redis.call('GET', session) or '0 0-0', '^(%d+) (.+)$')
stored = tonumber(stored)
if stored >= number then return {'again', last} end
local generated = lastId(stream)
if stored < number - 1 or before(generated, last) then return {'rewound', generated} end

local empty = #ARGV == 5 and kind == ''
if empty and number > 1 then return {'appended', last} end

local i = 6
while i <= #ARGV do
  local fields = tonumber(ARGV[i])
  last = redis.call('XADD', stream, '*', unpack(ARGV, i + 1, i + fields))
  i = i + fields + 1
end
redis.call('SET', session, string.format('%d %s', number, last), 'EX', ARGV[2])
if token ~= '' then redis.call('SET', KEYS[3], token) end
if kind ~= '' then
  for key = cursors, #KEYS do
    if kind == 'opaque' or ahead(cursor, redis.call('GET', KEYS[key])) then
      redis.call('SET', KEYS[key], cursor)
    end
  end
end
return {'appended', last}
