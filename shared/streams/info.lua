-- What several scripts ask of a stream; put before them by script.ts.

local function named(flat)
  local fields = {}
  for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
  return fields
end

-- Whether entry id a is older than b.
local function before(a, b)
  local ams, aseq = string.match(a, '^(%d+)-(%d+)$')
  local bms, bseq = string.match(b, '^(%d+)-(%d+)$')
  if ams ~= bms then return tonumber(ams) < tonumber(bms) end
  -- As text: a sequence number may have 64 bits, a double holds 53.
  if #aseq ~= #bseq then return #aseq < #bseq end
  return aseq < bseq
end

-- XINFO STREAM by name; nil when there is no stream.
local function streamInfo(key)
  if redis.call('EXISTS', key) == 0 then return nil end
  return named(redis.call('XINFO', 'STREAM', key))
end

local function lastId(key)
  local info = streamInfo(key)
  return info and info['last-generated-id'] or '0-0'
end

-- Whether the group was given the newest entry that the stream ever had.
local function hasReadAll(group, stream)
  return group['last-delivered-id'] == stream['last-generated-id']
end

-- XINFO GROUPS by name, with the lag where it can be told. Redis gives up as soon as the entry that was
-- delivered last is deleted, which is what acknowledging does; as long as nothing later was, its
-- counters still tell. A replica does not count what the group reads, nor does a log that is loaded:
-- after a failover or a restart the counters tell too much, until group.lua sets them.
local function groupsInfo(key, stream)
  local groups = {}
  for i, flat in ipairs(redis.call('XINFO', 'GROUPS', key)) do
    local group = named(flat)
    if hasReadAll(group, stream) then
      group['lag'] = 0
    elseif not group['lag'] and group['entries-read']
        and not before(group['last-delivered-id'], stream['max-deleted-entry-id']) then
      group['lag'] = stream['entries-added'] - group['entries-read']
    end
    groups[i] = group
  end
  return groups
end

-- Notes that a repo must be read whole again at this rev or later; once, however often that is noted
-- before it is done. False when so many are under way that there is no room.
local function wantResync(resyncs, waiting, most, did, rev)
  local held, step = string.match(redis.call('HGET', resyncs, did) or '', '^(%S+) (%S+)$')
  if not held then
    if redis.call('HLEN', resyncs) >= most then return false end
    redis.call('HSET', resyncs, did, rev .. ' w')
    redis.call('RPUSH', waiting, did)
  elseif rev > held then
    redis.call('HSET', resyncs, did, rev .. ' ' .. step)
  end
  return true
end
