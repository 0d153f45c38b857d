-- Delete everything of a conversation and leave a tombstone that holds no data of it.
-- KEYS: tombstone, meta, the other keys    ARGV: 1 tombstone lifetime in seconds  2 now_ms
-- Returns 1 when something was there, else 0. The tombstone says when: what was said before then,
-- and comes late, is refused by append.lua.
if redis.call('EXISTS', KEYS[2]) == 0 then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[1])
for i = 2, #KEYS do redis.call('UNLINK', KEYS[i]) end
return 1
