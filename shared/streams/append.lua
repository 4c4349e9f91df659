-- Appends a batch with its cursor and the chain states of its repos, exactly once, by whoever holds
-- the fence.
--
-- KEYS  stream, session, [fence], cursor..., [chain, resyncs, waiting, gaps]
-- ARGV  batch number, seconds that a session is kept, fence token or '', how many cursor keys,
--       cursor kind or '', cursor, time of the cursor's event or '',
--       most resyncs under way or '' where no chain is kept, links (chain.ts, `packLinks`),
--       the source as the ledger of gaps names it, the time,
--       then for each entry: how many fields follow, the fields
-- Gives {'appended', last id, counts of `judgements` in their order, dids whose chain is broken},
--       {'again', last id}, {'fenced', holder}, {'rewound', last id of the stream}
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
local number, token, kind, cursor = tonumber(ARGV[1]), ARGV[3], ARGV[5], ARGV[6]
local cursors = token == '' and 3 or 4
local chain = cursors + tonumber(ARGV[4])
local most, links = tonumber(ARGV[8]), ARGV[9]
local at = 12

if token ~= '' then
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

local empty = #ARGV < at and kind == '' and links == ''
if empty and number > 1 then return {'appended', last} end

local function append(count)
  for _ = 1, count do
    local fields = tonumber(ARGV[at])
    last = redis.call('XADD', stream, '*', unpack(ARGV, at + 1, at + fields))
    at = at + fields + 1
  end
end

local function skip(count)
  for _ = 1, count do at = at + tonumber(ARGV[at]) + 1 end
end

local counts = {0, 0, 0, 0, 0, 0, 0, 0, 0}
local broken = {}
local function count(judgement, n) counts[judgement] = counts[judgement] + n end
local START, CONTINUED, DUPLICATE, BROKEN, MOVED, UNPROVEN, HELD_BACK, DROPPED = 1, 2, 3, 4, 5, 6, 7, 8
local EARLIER = 9
local SYNC, UNPROVED, DOUBTFUL, LEGACY = 1, 2, 4, 8
local epoch = most and struct.pack('>H', tonumber(redis.call('HGET', KEYS[chain], 'epoch') or 0))

-- At which rev a repo was met of late. It may have been the relay that is ahead: what another one has
-- still to tell of before is on no stream.
local startsKept = 6 * 3600
local slot = most and math.floor(tonumber(redis.call('TIME')[1]) / startsKept)
-- Many small hashes: one large one would stop Redis for a second when it expires.
local function startsKey(of, bucket)
  return KEYS[chain] .. ':starts:' .. of .. ':' .. bucket % 8192
end
local function startOf(bucket, field)
  return redis.call('HGET', startsKey(slot, bucket), field)
    or redis.call('HGET', startsKey(slot - 1, bucket), field)
end

-- A pass that begins from now on is to find the repos whose resync had no room.
local function openGap()
  local host = ARGV[10]
  local gap = {stream = stream, host = host, reason = 'resyncs', opened_at = ARGV[11]}
  redis.call('HSET', KEYS[chain + 3], stream .. ' ' .. host .. ' resyncs ', cjson.encode(gap))
end

-- Judges one link against the state of its repo and moves that; false when what it brings is on the
-- stream already. A state is: rev (8 bytes), data (8), flags (1), epoch (2).
local function judge(bucket, field, rev, since, prev, data, flags, name)
  local key = KEYS[chain] .. ':' .. bucket
  local state = redis.call('HGET', key, field)
  if state and string.sub(state, 18, 19) ~= epoch then state = false end
  local held, heldData = state and string.sub(state, 1, 8), state and string.sub(state, 9, 16)
  local heldFlags = state and string.byte(state, 17) or 0
  local judgement = START
  if state and rev <= held then
    -- What nobody could verify proves nothing about what is verified.
    if bit.band(heldFlags, DOUBTFUL) == 0 or bit.band(flags, DOUBTFUL) ~= 0 then
      local start = startOf(bucket, field)
      local isEarlier = start and rev < start
      count(isEarlier and EARLIER or DUPLICATE, 1)
      return isEarlier
    end
    judgement = (rev == held and data == heldData) and DUPLICATE or BROKEN
  elseif state and bit.band(flags, SYNC) ~= 0 then
    judgement = data == heldData and MOVED or BROKEN
  elseif state then
    -- Who has told of the tree before goes on telling: a host on the way may take that out, and ops with it.
    local legacy = bit.band(flags, LEGACY) ~= 0
    local trusted = legacy and bit.band(heldFlags, UNPROVED) ~= 0
    local follows = since == held and (trusted or prev == heldData)
    judgement = follows and CONTINUED or BROKEN
    if legacy and not trusted then flags = bit.band(flags, bit.bnot(UNPROVED)) end
  end
  count(judgement, 1)
  if judgement == BROKEN then
    local did, wanted = string.match(name, '^(.+) (.+)$')
    broken[#broken + 1] = did
    if not wantResync(KEYS[chain + 1], KEYS[chain + 2], most, did, wanted) then
      -- The state stays, so that the next commit, or a pass over the list of repos, asks again.
      count(HELD_BACK, 1)
      openGap()
      return true
    end
  end
  if judgement ~= START and judgement ~= BROKEN then
    -- A chain is no better proven than its weakest link.
    flags = bit.bor(flags, bit.band(heldFlags, UNPROVED))
  end
  if bit.band(flags, UNPROVED) ~= 0 then count(UNPROVEN, 1) end
  if judgement == START then
    local starts = startsKey(slot, bucket)
    redis.call('HSET', starts, field, rev)
    redis.call('EXPIRE', starts, 2 * startsKept)
  end
  redis.call('HSET', key, field, rev .. data .. string.char(bit.band(flags, UNPROVED + DOUBTFUL)) .. epoch)
  return judgement ~= DUPLICATE
end

local position = 1
while position <= #links do
  local free, own, bucket, field, rev, since, prev, data, flags, name
  free, own, bucket, field, rev, since, prev, data, flags, name, position =
    struct.unpack('>HHI4c10c8c8c8c8BHc0', links, position)
  append(free)
  if judge(bucket, field, rev, since, prev, data, flags, name) then
    append(own)
  else
    count(DROPPED, own)
    skip(own)
  end
end
while at <= #ARGV do append(1) end

redis.call('SET', session, string.format('%d %s', number, last), 'EX', ARGV[2])
if token ~= '' then redis.call('SET', KEYS[3], token) end
if kind ~= '' then
  for key = cursors, chain - 1 do
    if kind == 'opaque' or ahead(cursor, redis.call('GET', KEYS[key])) then
      redis.call('SET', KEYS[key], cursor)
      if most and key == cursors then
        redis.call('HSET', KEYS[chain], KEYS[key], cursor .. ' ' .. ARGV[7])
      end
    end
  end
end
return {'appended', last, counts, broken}
