-- Commit a summary segment of a range of items, by compare-and-set.
-- KEYS: meta, segments
-- ARGV: 1 generation  2 epoch  3 range "start-stop"  4 segment  5 the segment it replaces ("")
-- Returns 1 when it was stored, 0 when the range has another one by now, -1 when the conversation
-- is another: deleted, made anew, or redacted since the source was read.
local m = redis.call('HMGET', KEYS[1], 'gen', 'epoch')
if m[1] ~= ARGV[1] or m[2] ~= ARGV[2] then return -1 end
if (redis.call('HGET', KEYS[2], ARGV[3]) or '') ~= ARGV[5] then return 0 end
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
redis.call('HINCRBY', KEYS[1], 'segments', 1)
local ttl = redis.call('PTTL', KEYS[1])
if ttl > 0 then redis.call('PEXPIRE', KEYS[2], ttl) end
return 1
