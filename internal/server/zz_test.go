package server
import ("testing";"strconv";"runtime";"os";"net/http";"context";"log/slog";"os/signal";"syscall";"strings";"time";"io")
func TestMain(m *testing.M){
 if os.Getenv("ZZ_SERVE")!="" {
  cfg:=Default(); cfg.Listen=Address(os.Getenv("ZZ_SERVE")); cfg.Data=os.Getenv("ZZ_DATA"); cfg.Metrics.Listen="127.0.0.1:7001"; cfg.Metrics.Profiles=true
  ctx,stop:=signal.NotifyContext(context.Background(),syscall.SIGTERM); context.AfterFunc(ctx,stop)
  
  if b:=os.Getenv("ZZ_BALLAST");b!="" { n,_:=strconv.Atoi(b); bal:=make([]byte,n<<20); defer runtime.KeepAlive(bal) }
  log:=NewLogger(cfg.Log,os.Stderr)
  manifest:=strings.Repeat("x",1500)
  s,err:=newServer(ctx,cfg,log,func(_ context.Context,_ *Config,_ *slog.Logger,m *Metrics,_ *Readiness)(http.Handler,func() error,error){
   return http.HandlerFunc(func(w http.ResponseWriter,r *http.Request){
     st:=time.Now()
     w.Header().Set("Docker-Distribution-Api-Version","registry/2.0")
     switch r.URL.Path {
     case "/blob":
       f,err:=os.Open("/tmp/blob20"); if err!=nil {panic(err)}; defer f.Close(); http.ServeContent(w,r,"",time.Time{},f)
     case "/up":
       n,_:=io.Copy(io.Discard,r.Body); _=n; w.WriteHeader(201)
     default:
       w.Header().Set("Content-Type","application/json"); b:=make([]byte,len(manifest)); copy(b,manifest); w.Write(b)
     }
     m.Observe("x",r.Method,200,0,0,time.Since(st))
   }),func() error{return nil},nil})
  if err!=nil {println(err.Error());os.Exit(1)}
  if err:=s.Serve(ctx);err!=nil{println(err.Error());os.Exit(1)}
  os.Exit(0)
 }
 os.Exit(m.Run())
}
