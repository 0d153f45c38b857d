-- Keep the vectors of items, document by document, beside the log.
-- KEYS: meta, vectors, vector set    ARGV: 1 generation  2 epoch  3 revision  4 first document  5.. rows
-- Returns how many documents have vectors afterwards, or -1 when the conversation is another by
-- now. Rows are taken only where they follow directly on what is there, so that two processes
-- which encode the same items store them once, and a late one cannot revive what was deleted.
local m = redis.call('HMGET', KEYS[1], 'gen', 'epoch', 'encoder')
if m[1] ~= ARGV[1] or m[2] ~= ARGV[2] then return -1 end
if m[3] ~= ARGV[3] then
  redis.call('UNLINK', KEYS[2], KEYS[3])
  redis.call('HDEL', KEYS[1], 'in_set')
  redis.call('HSET', KEYS[1], 'encoder', ARGV[3])
end
local n = redis.call('LLEN', KEYS[2])
if n ~= tonumber(ARGV[4]) then return n end
for i = 5, #ARGV do n = redis.call('RPUSH', KEYS[2], ARGV[i]) end
local ttl = redis.call('PTTL', KEYS[1])
if ttl > 0 then redis.call('PEXPIRE', KEYS[2], ttl) end
return n
