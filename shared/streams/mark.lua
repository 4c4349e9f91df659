-- Notes which position of each host the stream has reached at its present end.
--
-- KEYS  stream, marks, then the cursor of each host
-- ARGV  how many marks to keep, then the name of each host
-- Gives the id that was marked, or nil when nothing was appended since
--
-- Entries and cursor were appended by one script: at this moment, all that a host sent up to its
-- cursor stands at or below the stream's last id.

local id = lastId(KEYS[1])
if id == '0-0' then return nil end
local fields = {}
for i = 2, #ARGV do
  local cursor = redis.call('GET', KEYS[i + 1])
  if cursor then
    fields[#fields + 1] = ARGV[i]
    fields[#fields + 1] = cursor
  end
end
if #fields == 0 then return nil end
if redis.call('EXISTS', KEYS[2]) == 1 then
  local marked = lastId(KEYS[2])
  if marked == id then return nil end
  -- A mark above the stream's end is of a stream that was deleted since: its marks are false.
  if before(id, marked) then redis.call('DEL', KEYS[2]) end
end
return redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[1], id, unpack(fields))
