-- Opens a ledger entry and holds money for it, or refuses.
-- KEYS: spend (hash: settled, reserved, exposed), open (hash: entry -> hold:worst|opening),
--       leases (zset), stream
-- ARGV: 1 entry id  2 opening (JSON)  3 hold  4 limit (-1: none)  5 lease until (epoch s)
--       6 how long the counter is kept (s)  7 settled so far according to the books ('' unknown)
--       8 last id of the stream when the books were asked ('' any)  9 most open entries (-1: any)
--       10 worst case, at least the hold  11 what settling may reach at the very most
-- Returns: {outcome, settled, reserved} after the operation, and for outcome 2 the stream's last id.
--   1 held, 0 refused, 2 the counter is not there: ask the books what is settled, then ask again,
--   3 refused because so many entries are open already.
local counts = redis.call('HMGET', KEYS[1], 'settled', 'reserved', 'exposed')
local settled, reserved = tonumber(counts[1] or '0'), tonumber(counts[2] or '0')
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then return {1, settled, reserved} end

local most = tonumber(ARGV[9])
if most >= 0 and redis.call('HLEN', KEYS[2]) >= most then return {3, settled, reserved} end

if not counts[1] then
  local last = '0-0'
  local info = redis.pcall('XINFO', 'STREAM', KEYS[4])
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then last = info[i + 1] end
  end
  -- A close since the books were asked would be missing from their sum.
  if ARGV[7] == '' or (ARGV[8] ~= '' and ARGV[8] ~= last) then return {2, 0, 0, last} end
  settled = tonumber(ARGV[7])
end

local limit = tonumber(ARGV[4])
if limit >= 0 and (settled >= limit or settled + reserved + tonumber(ARGV[3]) > limit) then
  return {0, settled, reserved}
end
-- Holds are what is expected; what all open turns together could cost is bounded on its own.
local exposed = tonumber(counts[3] or '0')
if limit >= 0 and settled + exposed + tonumber(ARGV[10]) > tonumber(ARGV[11]) then
  return {0, settled, reserved}
end
if not counts[1] then redis.call('HSET', KEYS[1], 'settled', ARGV[7]) end
reserved = redis.call('HINCRBY', KEYS[1], 'reserved', ARGV[3])
redis.call('HINCRBY', KEYS[1], 'exposed', ARGV[10])
redis.call('EXPIRE', KEYS[1], ARGV[6])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3] .. ':' .. ARGV[10] .. '|' .. ARGV[2])
redis.call('ZADD', KEYS[3], ARGV[5], ARGV[1])
return {1, settled, reserved}
